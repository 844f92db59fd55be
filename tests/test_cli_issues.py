"""`graphcorrect issues`: annotations with whole regions of another class are found, written down and corrected."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from refine_photos import NAMES, SIZE, answer, files_of, scene
from small_models import Pooled

from graphcorrect.encoders import key_encoder

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("tqdm")


def noisy(number):
    """Labels of which one cell of 16 x 16 pixels was given to another class."""
    labels = scene(number)[1].copy()
    labels[16:32, 16:32] = (labels[16:32, 16:32] + 1) % 3
    return labels


@pytest.fixture
def folders(tmp_path):
    """Masks, probabilities that mostly know better, images and features; of 'd' every label is right."""
    for number, name in enumerate(NAMES):
        image, labels = scene(number)
        probabilities = np.moveaxis(0.02 + 0.94 * np.eye(3)[labels], -1, 0)
        given = labels if name == "d" else noisy(number)
        for kind in ("masks", "probabilities", "images", "features"):
            (tmp_path / kind / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(given).save(tmp_path / f"masks/{name}.png")
        Image.fromarray(image).save(tmp_path / f"images/{name}.png")
        np.save(tmp_path / f"probabilities/{name}.npy", probabilities[:, ::2, ::2].astype(np.float16))
        np.save(tmp_path / f"features/{name}.npy", np.moveaxis(image[::4, ::4], -1, 0).astype(np.float32) - 100)
    return tmp_path


def options(folders, *more, out="out"):
    arguments = ["--masks", folders / "masks", "--probabilities", folders / "probabilities", "--out", folders / out]
    return ["issues", *map(str, [*arguments, *more])]


@pytest.mark.parametrize("more", [[], ["images"], ["images", "features"]])
def test_wrong_regions_are_found_and_corrected(folders, capsys, more):
    extra = [part for kind in more for part in (f"--{kind}", folders / kind)]
    code, text = answer(options(folders, *extra, "--caution", 1), capsys)
    assert code == 0, text
    for number, name in enumerate(NAMES):
        corrected = np.array(Image.open(folders / f"out/masks/{name}.png"))
        issues = np.array(Image.open(folders / f"out/issues/{name}.png"))
        assert set(np.unique(issues)) <= {0, 255}
        is_wrong = scene(number)[1] != np.array(Image.open(folders / f"masks/{name}.png"))
        found = issues > 0
        assert (found == is_wrong).mean() > 0.97
        assert (corrected == scene(number)[1]).mean() > 0.97
    rows = list(csv.DictReader((folders / "out/images.csv").read_text().splitlines()))
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores)
    assert rows[-1]["image"] == "d"
    by_name = {row["image"]: row for row in rows}
    for name in NAMES:
        found = np.array(Image.open(folders / f"out/issues/{name}.png")) > 0
        assert int(by_name[name]["issues"]) == found.sum()
        assert float(by_name[name]["share"]) == pytest.approx(found.mean(), abs=1e-6)
    total = sum(int(row["issues"]) for row in rows)
    assert f"5 images, {total:,} labels look wrong" in text
    assert f"open {folders / 'out/report.html'}" in text
    page = (folders / "out/report.html").read_text()
    assert "<h1>Labels that look wrong</h1>" in page
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_an_encoder_compares_images_as_its_own_feature_maps_do(folders, capsys):
    encoder = key_encoder(Pooled(), magnifications=(1.0, 2.0))
    for number, name in enumerate(NAMES):
        image = torch.from_numpy(scene(number)[0]).permute(2, 0, 1)[None] / 255
        np.save(folders / f"features/{name}.npy", encoder(image)[0].numpy())
    images = ["--images", folders / "images"]
    ways = {"maps": ["--features", folders / "features"], "encoder": ["--encoder", "small_models:Pooled"], "alone": []}
    for out, more in ways.items():
        code, text = answer(options(folders, *images, *more, "--device", "cpu", out=out), capsys)
        assert code == 0, text
    tables = {out: (folders / out / "images.csv").read_text() for out in ways}
    assert tables["encoder"] == tables["maps"] != tables["alone"]
    code, text = answer(options(folders, *images, "--encoder", "small_models:none", out="none"), capsys)
    assert code == 1
    assert "expected --encoder as a file or package.module:callable, got 'small_models:none'" in text
    assert not (folders / "none").exists()


def test_void_is_left_alone(folders, capsys):
    mask = noisy(0)
    mask[:8] = 255
    Image.fromarray(mask).save(folders / "masks/a.png")
    assert answer(options(folders), capsys)[0] == 0
    corrected = np.array(Image.open(folders / "out/masks/a.png"))
    assert ((corrected == 255) == (mask == 255)).all()
    assert not np.array(Image.open(folders / "out/issues/a.png"))[:8].any()
    rows = {row["image"]: row for row in csv.DictReader((folders / "out/images.csv").read_text().splitlines())}
    assert int(rows["a"]["pixels"]) == (mask != 255).sum()


def test_issues_are_counted_whether_or_not_they_are_replaced(folders, capsys):
    code, text = answer(options(folders, "--caution", 1e6), capsys)
    assert code == 0
    white = sum(int((np.array(Image.open(folders / f"out/issues/{name}.png")) > 0).sum()) for name in NAMES)
    rows = list(csv.DictReader((folders / "out/images.csv").read_text().splitlines()))
    assert sum(int(row["issues"]) for row in rows) == white > sum(int(row["replaced"]) for row in rows)
    assert f"{white:,} labels look wrong" in text


@pytest.mark.parametrize(("value", "message"), [(1, "save that as 1"), (255, "hold 255 only")])
def test_masks_in_which_255_is_meant_are_named(folders, capsys, value, message):
    for name in NAMES:
        mask = np.full_like(noisy(0), value)
        mask[:9] = 0 if value == 1 else 255
        Image.fromarray(np.where(mask > 0, 255, 0).astype(np.uint8)).save(folders / f"masks/{name}.png")
    code, text = answer(options(folders), capsys)
    assert code == 1
    assert message in text


def test_a_run_is_repeated_and_other_settings_are_refused(folders, capsys):
    assert answer(options(folders), capsys)[0] == 0
    first = files_of(folders / "out")
    assert answer(options(folders), capsys)[0] == 0
    assert files_of(folders / "out") == first
    code, text = answer(options(folders, "--error-rate", "0.3"), capsys)
    assert code == 1
    assert "settings.json says error_rate 0.1" in text
    names = folders / "names.txt"
    names.write_text("red\ngreen, light\nblue\n")
    assert answer(options(folders, "--classes", names, out="named"), capsys)[0] == 0
    flows = list(csv.DictReader((folders / "named/flows.csv").read_text().splitlines()))
    assert {row["from_name"] for row in flows} <= {"red", "green, light", "blue"}


def test_every_fault_is_listed_at_once(folders, capsys):
    (folders / "probabilities/a.npy").write_bytes(b"")
    np.save(folders / "probabilities/b.npy", np.random.default_rng(0).normal(size=(3, 24, 32)))
    (folders / "probabilities/d.npy").unlink()
    np.save(folders / "probabilities/e.npy", np.full((3, 60, 64), 1 / 3))
    Image.fromarray(np.full(SIZE, 7, np.uint8)).save(folders / "masks/town/c.png")
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(folders / "images/e.png")
    code, text = answer(options(folders, "--images", folders / "images", "--classes", "3"), capsys)
    assert code == 1
    for fault in (
        "probabilities/a.npy: is empty",
        "probabilities/b.npy: expected probabilities",
        "masks/d.png: no probabilities of that name",
        "probabilities/e.npy: is (60, 64), larger than e.png, (48, 64)",
        "masks/town/c.png: expected",
        "images/e.png: is (5, 6), e.png is (48, 64)",
    ):
        assert fault in text, (fault, text)
    assert not (folders / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--error-rate", "0"], "--error-rate in (0, 1), got 0"),
        (["--caution", "0.5"], "--caution of at least 1, got 0.5"),
        (["--error-rate", "1.5"], "--error-rate in (0, 1), got 1.5"),
        (["--features", "nowhere"], "--features to be a folder, got 'nowhere'"),
        (["--imags", "x"], "no such option: --imags; did you mean --images?"),
        (["--encoder", "timm:x"], "--images beside --encoder, got none"),
        (["--encoder", "timm:x", "--features", "."], "--encoder or --features, got both"),
        (["--encoder-weights", "x"], "--encoder beside --encoder-weights, got none"),
    ],
)
def test_a_wrong_option_is_named(folders, capsys, more, message):
    code, text = answer(options(folders, *more), capsys)
    assert code == 2
    assert message in text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("timm:no_such_encoder", "error: expected --encoder to be an encoder of timm"),
        ("small_models:failing", "expected 4 channels"),
    ],
)
def test_a_command_that_was_refused_may_be_corrected(folders, capsys, monkeypatch, wrong, message):
    pytest.importorskip("timm")
    monkeypatch.chdir(Path(__file__).parent)
    arguments = options(folders, "--images", folders / "images")
    code, text = answer([*arguments, "--encoder", wrong], capsys)
    assert code == 1
    assert any(line.startswith("error: ") and message in line for line in text.replace("\r", "\n").splitlines()), text
    assert not (folders / "out/settings.json").exists()
    code, text = answer([*arguments, "--encoder", "small_models:Pooled"], capsys)
    assert code == 0, text


def test_results_do_not_go_among_the_masks(folders, capsys):
    code, text = answer(options(folders, out="masks/x"), capsys)
    assert code == 1
    assert "--out outside --masks" in text
    code, text = answer(options(folders, out="masks/.."), capsys)
    assert code == 1
    assert "--out outside --masks" in text  # whose masks would be written over
    (folders / "masks").rename(folders / "given")
    code, text = answer(["issues", "--masks", str(folders / "given"), *options(folders, out=".")[3:]], capsys)
    assert code == 1
    assert "which holds --masks, --probabilities\n" in text
    assert torch.is_grad_enabled()


LABEL_MAP = "ground:0,0,0::\nroad:128,64,128::\ncar:0,0,142::\n"


@pytest.mark.parametrize("form", ["rgb", "rgba", "palette"])
def test_masks_of_colors_are_corrected_in_their_colors(folders, capsys, form):
    """By CVAT's list of labels: the same is found as in masks of ids, and written as the masks are."""
    files = pytest.importorskip("graphcorrect.files")
    (folders / "labelmap.txt").write_text(LABEL_MAP)
    label_map = files.read_label_map(folders / "labelmap.txt")
    assert answer(options(folders, out="by_id"), capsys)[0] == 0
    for name in NAMES:
        path = folders / f"masks/{name}.png"
        files.write_mask(path, files.read_mask(path, 3), label_map, form=form)
    code, text = answer(options(folders, "--classes", folders / "labelmap.txt"), capsys)
    assert code == 0, text
    for name in NAMES:
        path = folders / f"out/masks/{name}.png"
        assert files.read_stored_mask(path).form == form
        assert files.read_mask(path, label_map).equal(files.read_mask(folders / f"by_id/masks/{name}.png", 3))
    rows, expected = (
        list(csv.DictReader((folders / f"{out}/flows.csv").read_text().splitlines())) for out in ("out", "by_id")
    )
    assert [(row["image"], row["pixels"]) for row in rows] == [(row["image"], row["pixels"]) for row in expected]
    assert [row["to_name"] for row in rows] == [label_map.names[int(row["to"])] for row in rows]


def test_colors_that_the_list_lacks_are_named(folders, capsys):
    (folders / "labelmap.txt").write_text(LABEL_MAP)
    for name in ("a", "b"):
        Image.fromarray(np.full((*SIZE, 3), 9, np.uint8)).save(folders / f"masks/{name}.png")
    code, text = answer(options(folders, "--classes", folders / "labelmap.txt"), capsys)
    assert code == 1
    assert text.count("expected the 3 colors of the label map, got 1 other(s)") == 2
    assert "masks/a.png" in text
    assert "masks/b.png" in text


@pytest.mark.parametrize("odd", NAMES)
def test_predictions_of_other_classes_than_most_are_the_faults(folders, capsys, odd):
    np.save(folders / f"probabilities/{odd}.npy", np.full((2, *SIZE), 0.5))
    code, text = answer(options(folders), capsys)
    assert code == 1
    assert "1 fault(s):" in text
    assert f"{odd}.npy: has 2 classes, {len(NAMES) - 1} others have 3" in text
