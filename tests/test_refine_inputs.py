"""refine_masks: what is saved in another form is read as it is meant, or refused with what to do; never as another."""

import json
import shutil

import numpy as np
import pytest
from broken_files import answer
from PIL import Image
from saved_predictions import command, files_of, refine_masks

from graphcorrect.files.arrays import is_channels_last


def save(root, kind, change, names=("a", "b", "city/c")):
    """The arrays of a kind in another form."""
    for name in names:
        for path in (root / kind).glob(f"{name}.np?"):
            array = np.load(path)
            array = array if isinstance(array, np.ndarray) else array["features"]
            path.unlink()
            np.save(path.with_suffix(".npy"), change(array))


def last(array):
    return np.moveaxis(array, 0, -1)


@pytest.mark.parametrize("keys", ["images", "features"])
def test_channels_that_come_last_are_named_and_read_right_when_told(folders, capsys, keys):
    refine_masks.run(command(folders, keys=keys, out="right"))
    save(folders, "probabilities", last)
    if keys == "features":
        save(folders, "features", last)
    code, text = answer(refine_masks.run, command(folders, keys=keys), capsys)
    assert code == 1
    assert text.count("--channels last reads such files") == 3  # one for each
    code, text = answer(refine_masks.run, command(folders, keys=keys, more=["--channels", "last"]), capsys)
    assert code == 0, text
    for name in ("a", "b", "city/c"):
        assert (folders / f"out/masks/{name}.png").read_bytes() == (folders / f"right/masks/{name}.png").read_bytes()


def test_features_whose_channels_come_last_are_told_by_their_proportions(folders, capsys):
    save(folders, "features", last)
    code, text = answer(refine_masks.run, command(folders, keys="features"), capsys)
    assert code == 1
    assert text.count("if the channels come last; --channels last reads such files") == 3


@pytest.mark.parametrize(
    ("shape", "size", "is_last"),
    [
        ((64, 33, 65), (513, 1025), False),
        ((33, 65, 64), (513, 1025), True),
        ((32, 32, 256), (256, 256), True),
        ((256, 32, 32), (256, 256), False),
        ((16, 18, 24), (18, 24), False),
        ((18, 24, 18), (18, 24), True),
        ((8, 3, 4), (90, 120), False),
        ((256, 33, 33), (375, 500), False),  # a network that sees squares
    ],
)
def test_proportions(shape, size, is_last):
    assert is_channels_last(shape, size) == is_last


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p[1:2], r"one channel; of a sigmoid save both classes, np\.concatenate\(\[1 - p, p\]\)"),
        (lambda p: last(p[1:2]), "one channel; of a sigmoid"),
        (lambda p: p[1], r"got float16 \(18, 24\); of a sigmoid save both classes, np\.stack"),
        (lambda p: p[None], r"got float16 \(1, 3, 18, 24\); save one image a file"),
        (lambda p: np.log(p), "save the softmax of logits"),
        (lambda p: 1 / (1 + np.exp(-10 * p)), "sums from .* save the softmax of logits"),
        (lambda p: (255 * p).astype(np.uint8), "expected floating point"),
        (lambda p: np.where(p > 0.5, p, np.nan), "NaN or Inf"),
        (lambda p: np.array([{"p": p}], dtype=object), "Object arrays"),
    ],
)
def test_what_are_no_probabilities_of_classes_is_refused_with_what_to_save(folders, capsys, change, message):
    import re

    save(folders, "probabilities", change, ["b"])
    code, text = answer(refine_masks.run, command(folders), capsys)
    assert code == 1
    assert re.search(rf"b\.npy: .*{message}", text), text
    assert "1 fault(s)" in text


@pytest.mark.parametrize("kind", ["masks", "truth"])
def test_masks_of_0_and_255_are_not_read_as_nothing(folders, capsys, kind):
    for path in (folders / kind).rglob("*.png"):
        Image.fromarray((np.array(Image.open(path)) > 0).astype(np.uint8) * 255).save(path)
    more = ["--classes", "3", "--labeled-masks", str(folders / "truth")]
    code, text = answer(refine_masks.run, command(folders, predicted="masks", more=more), capsys)
    assert code == 1
    assert f"{folders / kind}: all masks hold 0 and 255 only, and 255 stands for no class" in text


def test_one_mask_of_0_and_255_among_others_is_taken(folders, capsys):
    mask = np.zeros((18, 24), np.uint8)
    mask[4:] = 255
    Image.fromarray(mask).save(folders / "masks/b.png")
    assert answer(refine_masks.run, command(folders, predicted="masks", more=["--classes", "3"]), capsys)[0] == 0


@pytest.mark.parametrize("name", ["masks", "records"])
def test_results_are_never_written_over_inputs(folders, capsys, name):
    shutil.move(folders / "probabilities", folders / "in" / name)
    before = files_of(folders / "in")
    arguments = ["--predictions", folders / "in" / name, "--images", folders / "images", "--out", folders / "in"]
    code, text = answer(refine_masks.run, [*arguments, "--device", "cpu", "--neighbors", "8"], capsys)
    assert code
    assert f"whose {name} would be written over" in text
    assert files_of(folders / "in") == before


def test_a_folder_of_masks_of_another_origin_is_not_written_into(folders, capsys):
    shutil.copytree(folders / "truth", folders / "mine/masks")
    code, text = answer(refine_masks.run, command(folders, out="mine"), capsys)
    assert code == 1
    assert "which holds masks of another origin" in text


def test_one_name_in_two_images_and_what_is_left_out_are_said(folders, capsys):
    Image.open(folders / "images/a.png").save(folders / "images/a.bmp")
    Image.open(folders / "images/a.png").save(folders / "images/no prediction.bmp")
    (folders / "probabilities/d.tif").write_bytes(b"x")
    code, text = answer(refine_masks.run, command(folders), capsys)
    assert code == 1
    assert "images/a.png: a.bmp has the same name" in text
    assert "note: 1 file(s)" in text
    assert "left out: d.tif" in text
    assert "no prediction" not in text


def test_a_name_is_one_name_however_a_system_writes_it(folders, capsys):
    (folders / "probabilities/a.npy").rename(folders / "probabilities/caf\u00e9.npy")
    (folders / "images/a.png").rename(folders / "images/cafe\u0301.png")
    assert answer(refine_masks.run, command(folders), capsys)[0] == 0
    assert (folders / "out/masks/caf\u00e9.png").is_file()


def test_a_name_that_is_no_utf_8_costs_no_result(folders, capsys):
    odd = "caf\udce9"
    (folders / "probabilities/a.npy").rename(folders / f"probabilities/{odd}.npy")
    (folders / "images/a.png").rename(folders / f"images/{odd}.png")
    assert answer(refine_masks.run, command(folders), capsys)[0] == 0
    assert "caf\\udce9," in (folders / "out/changes.csv").read_text()


@pytest.mark.parametrize(
    "more",
    [
        ["--position-weight", "inf"], ["--position-weight", "nan"], ["--alpha", "nan"], ["--sigma", "inf"],
        ["--mask-confidence", "nan"], ["--rounds", "0"], ["--rounds", "1000000000"], ["--neighbors", "x"],
        ["--anchor-capacity", "0"], ["--report-images", "-1"], ["--device", "cuda:99"], ["--device", "gpu"],
        ["--classes", "0"], ["--classes", "-3"], ["--classes", "\u00b3"], ["--classes", "1.5"],
    ],
)  # fmt: skip
def test_a_flag_that_makes_no_sense_is_named(folders, capsys, more):
    code, text = answer(refine_masks.run, command(folders, more=more), capsys)
    assert code
    assert more[0] in text
    assert not (folders / "out").exists()


def test_an_out_that_cannot_be_written_is_named_before_any_work(folders, capsys):
    (folders / "file").write_text("")
    for out in ("file", "file/below", "/proc/none", "x" * 300):
        code, text = answer(refine_masks.run, command(folders, out=out), capsys)
        assert code == 1
        assert "expected --out" in text
        assert "correcting" not in text


def test_a_result_that_was_damaged_is_made_again(folders, capsys):
    refine_masks.run(command(folders))
    whole = files_of(folders / "out")
    mask, record = folders / "out/masks/a.png", folders / "out/records/b.json"
    mask.write_bytes(mask.read_bytes()[:60])
    record.write_text(json.dumps({"pixels": 3}))
    assert answer(refine_masks.run, command(folders), capsys)[0] == 0
    assert files_of(folders / "out") == whole


@pytest.mark.parametrize("most", [9, 10, 11])
def test_a_graph_that_pooling_makes_too_small_is_named_before_any_work(folders, capsys, most):
    code, text = answer(refine_masks.run, command(folders, more=["--max-nodes", str(most)]), capsys)
    if code:
        assert f"cells of at most {most}, too few for 8 neighbors each" in text
        assert "correcting" not in text
    assert code == (most < 12)


def test_masks_of_predictions_that_are_gone_are_named(folders, capsys):
    code, text = answer(refine_masks.run, command(folders), capsys)
    assert code == 0
    assert "that are gone" not in text
    next((folders / "probabilities").glob("a.np?")).unlink()
    code, text = answer(refine_masks.run, command(folders), capsys)
    assert code == 0, text
    assert "masks of predictions that are gone: a.png" in text
