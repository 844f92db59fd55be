"""Correcting a folder of saved predictions: results, faults, and going on after an interruption."""

import csv
import io
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from saved_predictions import CLASSES, NAMES, command, files_of, refine_masks, scene

from graphcorrect.pixel_features import pixel_features

refine = pytest.importorskip("graphcorrect.cli.refine")
changes = pytest.importorskip("graphcorrect.cli.changes")
datasets = pytest.importorskip("segmentation.datasets")
metrics = pytest.importorskip("graphcorrect").metrics


def counts(folders, out="out"):
    """Labels fixed and broken in all images."""
    found = []
    for number, name in enumerate(NAMES):
        _, labels, predicted, _ = scene(number)
        after = datasets.read_mask(folders / out / "masks" / f"{name}.png").long()
        found.append(metrics.correction_counts(predicted, after, labels))
    return sum(count.fixed for count in found), sum(count.broken for count in found)


@pytest.mark.parametrize(
    ("predicted", "keys", "more"),
    [
        ("probabilities", "images", []),
        ("masks", "images", ["--classes", "3"]),
        ("probabilities", "features", []),
    ],
)
def test_scattered_errors_of_a_folder_are_corrected(folders, predicted, keys, more):
    refine_masks.run(command(folders, predicted=predicted, keys=keys, more=more))
    fixed, broken = counts(folders)
    assert fixed > 150
    assert broken < fixed / 10


def test_features_may_be_coarser_than_predictions(folders):
    """Errors larger than a cell are then what can be repaired."""
    for number, name in enumerate(NAMES):
        image, labels, _, _ = scene(number)
        predicted = labels.clone()
        predicted[2:6, 2:6] = 2
        np.save(folders / "probabilities" / f"{name}.npy", 0.1 + 0.7 * F.one_hot(predicted, 3).permute(2, 0, 1).numpy())
        features = pixel_features(torch.from_numpy(image).permute(2, 0, 1), position_weight=0.0)
        np.savez(folders / "features" / f"{name}.npz", features[:, ::2, ::2].numpy())
    refine_masks.run(command(folders, keys="features"))
    for number, name in enumerate(NAMES):
        after = datasets.read_mask(folders / "out" / "masks" / f"{name}.png").long()
        assert (after == scene(number)[1])[3:5, 3:5].all()


def test_labeled_masks_are_looked_up(folders):
    """Probabilities that say nothing: what is right afterwards comes from the labeled pixels."""
    for name in NAMES:
        np.save(folders / "probabilities" / f"{name}.npy", np.full((CLASSES, 18, 24), 1 / CLASSES))
    refine_masks.run(command(folders, more=["--labeled-masks", str(folders / "truth"), "--position-weight", "0"]))
    for name in NAMES:
        after = datasets.read_mask(folders / "out" / "masks" / f"{name}.png")
        assert (after == datasets.read_mask(folders / "truth" / f"{name}.png")).float().mean() > 0.9


def test_the_tables_count_what_the_masks_show(folders):
    names = folders / "names.txt"
    names.write_text("wall\nfloor, wooden\ndoor\n")
    refine_masks.run(command(folders, more=["--classes", str(names)]))
    images = {row["image"]: row for row in csv.DictReader(io.StringIO((folders / "out/changes.csv").read_text()))}
    flows = list(csv.DictReader(io.StringIO((folders / "out/flows.csv").read_text())))
    assert list(images) == NAMES
    for number, name in enumerate(NAMES):
        predicted = scene(number)[2]
        after = datasets.read_mask(folders / "out" / "masks" / f"{name}.png").long()
        changed = int((predicted != after).sum())
        assert changed > 0
        assert int(images[name]["changed"]) == changed
        assert float(images[name]["share"]) == pytest.approx(changed / (18 * 24), abs=1e-6)
        own = [row for row in flows if row["image"] == name]
        assert sum(int(row["pixels"]) for row in own) == changed
        for row in own:
            expected = (predicted == int(row["from"])) & (after == int(row["to"]))
            assert int(row["pixels"]) == int(expected.sum())
    assert {row["from_name"] for row in flows} == {"wall", "floor, wooden", "door"}


def test_the_page_needs_no_other_file_and_shows_the_most_changed_first(folders):
    refine_masks.run(command(folders, more=["--report-images", "2"]))
    page = (folders / "out/report.html").read_text()
    rows = list(csv.DictReader(io.StringIO((folders / "out/changes.csv").read_text())))
    most = sorted(rows, key=lambda row: -float(row["share"]))[:2]
    assert re.findall(r"<h3>(\S+) ", page) == [row["image"] for row in most]
    assert page.count("data:image/png;base64,") == 6
    assert page.count("data:image/jpeg;base64,") == 2
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert f"{sum(int(row['changed']) for row in rows):,} pixels" in page


def test_names_are_escaped_on_the_page():
    entry = changes.Changes("<b>&", 4, {(0, 1): 2})
    example = changes.Example(entry, None, torch.zeros(2, 2), torch.tensor([[0, 0], [1, 1]]))
    page = changes.changes_page([entry], [example], ["<i>", "x"])
    assert "&lt;b&gt;&amp;" in page
    assert "&lt;i&gt;" in page
    assert "<b>" not in page


def test_unlabeled_pixels_of_a_mask_stay_unlabeled(folders):
    path = folders / "masks" / "a.png"
    mask = np.array(Image.open(path))
    mask[3:6] = 255
    Image.fromarray(mask).save(path)
    refine_masks.run(command(folders, predicted="masks", more=["--classes", "3"]))
    after = datasets.read_mask(folders / "out/masks/a.png").numpy()
    assert ((after == 255) == (mask == 255)).all()
    rows = list(csv.DictReader(io.StringIO((folders / "out/changes.csv").read_text())))
    assert int(rows[0]["pixels"]) == (mask != 255).sum()


def test_an_interrupted_run_goes_on_where_it_was(folders, monkeypatch, capsys):
    refine_masks.run(command(folders, out="whole"))
    correct, done = refine.correct, []

    def interrupted(args, item, *rest):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(item.name)
        return correct(args, item, *rest)

    monkeypatch.setattr(refine, "correct", interrupted)
    with pytest.raises(SystemExit, match="goes on from here"):
        refine_masks.run(command(folders))
    assert done == NAMES[:2]
    # What a kill in the middle of writing leaves behind
    partial = folders / "out/masks/city/c.png.partial"
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(b"half")
    first = (folders / "out/masks/a.png").stat().st_mtime_ns

    done.clear()
    refine_masks.run(command(folders))
    assert done == NAMES[2:]
    assert (folders / "out/masks/a.png").stat().st_mtime_ns == first
    whole, resumed = files_of(folders / "whole"), files_of(folders / "out")
    assert whole == resumed


def test_a_finished_run_does_nothing_and_a_changed_input_is_done_again(folders, monkeypatch):
    refine_masks.run(command(folders))
    correct, done = refine.correct, []
    monkeypatch.setattr(
        refine, "correct", lambda args, item, *rest: (done.append(item.name), correct(args, item, *rest))[1]
    )
    refine_masks.run(command(folders))
    assert done == []
    np.save(folders / "probabilities/b.npy", scene(5)[3].numpy())
    refine_masks.run(command(folders))
    assert done == ["b"]
    (folders / "out/masks/a.png").unlink()
    refine_masks.run(command(folders))
    assert done == ["b", "a"]


def test_the_truth_counts_as_it_is_today(folders, monkeypatch):
    """Changed, taken away, added: the images that it is of are done again, and the scores are those of a new run."""
    truth = ["--truth", str(folders / "truth")]
    (folders / "truth/city/c.png").rename(folders / "c.png")
    refine_masks.run(command(folders, more=truth))
    correct, done = refine.correct, []
    monkeypatch.setattr(
        refine, "correct", lambda args, item, *rest: (done.append(item.name), correct(args, item, *rest))[1]
    )
    Image.fromarray(np.zeros((18, 24), np.uint8)).save(folders / "truth/a.png")
    (folders / "truth/b.png").unlink()
    (folders / "c.png").rename(folders / "truth/city/c.png")
    refine_masks.run(command(folders, more=truth))
    assert done == NAMES
    refine_masks.run(command(folders, more=truth))
    assert done == NAMES
    refine_masks.run(command(folders, out="new", more=truth))
    assert (folders / "out/scores.csv").read_text() == (folders / "new/scores.csv").read_text()
    for path in (folders / "truth").rglob("*.png"):
        path.unlink()
    with pytest.raises(SystemExit, match="truth: no mask with the name of an image"):
        refine_masks.run(command(folders, more=truth))


def test_a_new_image_needs_no_truth_where_others_have_one(folders):
    truth = ["--truth", str(folders / "truth")]
    (folders / "probabilities/b.npy").rename(folders / "b.npy")
    (folders / "truth/b.png").unlink()
    refine_masks.run(command(folders, more=truth))
    (folders / "b.npy").rename(folders / "probabilities/b.npy")
    refine_masks.run(command(folders, more=truth))
    assert (folders / "out/masks/b.png").exists()


@pytest.mark.parametrize("confidence", ["0.2", "0.333"])
def test_a_confidence_that_would_turn_masks_around_is_refused(folders, confidence):
    more = ["--classes", "3", "--mask-confidence"]
    message = rf"^error: expected --mask-confidence above 1/3 = 0\.3333 for masks of 3 classes, got {confidence}$"
    with pytest.raises(SystemExit, match=message):
        refine_masks.run(command(folders, predicted="masks", more=[*more, confidence]))
    assert not (folders / "out").exists()
    refine_masks.run(command(folders, predicted="masks", more=[*more, "0.5"]))
    fixed, broken = counts(folders)
    assert fixed > 10 * broken


def test_masks_beside_probabilities_need_the_number_of_classes_too(folders):
    (folders / "masks/a.png").unlink()
    (folders / "probabilities/a.npy").rename(folders / "masks/a.npy")
    with pytest.raises(SystemExit, match="expected `--classes` where predictions are masks"):
        refine_masks.run(command(folders, predicted="masks"))
    assert not (folders / "out").exists()
    refine_masks.run(command(folders, predicted="masks", more=["--classes", "3"]))
    assert (folders / "out/report.html").exists()


def test_results_of_other_settings_are_not_mixed_in(folders):
    refine_masks.run(command(folders))
    with pytest.raises(
        SystemExit, match=r"expected --out to be new or of these settings, got .*, whose settings.json says alpha 0\.2$"
    ):
        refine_masks.run(command(folders, more=["--alpha", "0.5"]))


def test_every_fault_is_listed_before_any_work(folders):
    (folders / "images/b.png").unlink()
    (folders / "probabilities/a.npy").write_bytes((folders / "probabilities/a.npy").read_bytes()[:200])
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(folders / "images/city/c.png")
    np.save(folders / "probabilities/d.npy", np.full((3, 18, 24), 2.0))
    Image.fromarray(np.zeros((18, 24, 3), np.uint8)).save(folders / "images/d.png")
    np.save(folders / "probabilities/e.npy", np.full((4, 18, 24), 0.25))
    (folders / "images/e.png").write_bytes((folders / "images/a.png").read_bytes()[:90])
    np.save(folders / "probabilities/f.npy", np.array([{"code": 1}], dtype=object))
    Image.fromarray(np.zeros((18, 24, 3), np.uint8)).save(folders / "images/f.png")
    Image.fromarray(np.full((18, 24), 7, np.uint8)).save(folders / "truth/a.png")
    more = ["--classes", "3", "--labeled-masks", str(folders / "truth")]
    with pytest.raises(SystemExit) as caught:
        refine_masks.run(command(folders, more=more))
    message = str(caught.value)
    for fault in (
        r"probabilities/b\.npy: no image of that name in \S+images",
        r"truth/b\.png: no image of that name",
        r"probabilities/a\.npy: \w+",
        r"images/city/c\.png: is \(5, 6\), c\.npy is \(18, 24\)",
        r"probabilities/d\.npy: expected probabilities, .* sums from 6 to 6; save the softmax",
        r"probabilities/e\.npy: expected 3 classes, got shape \(4, 18, 24\)",
        r"images/e\.png: ",
        r"probabilities/f\.npy: Object arrays cannot be loaded",
        r"truth/a\.png: expected ids 0 to 2 or 255, got \[7\]",
    ):
        assert re.search(fault, message), (fault, message)
    assert not (folders / "out").exists()


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (
            lambda root: np.savez(root / "features/a.npz", np.zeros((2, 9, 12)), np.zeros(3)),
            "one array, got 2: arr_0, arr_1",
        ),
        (
            lambda root: np.savez(root / "features/b.npz", np.zeros((2, 9, 12))),
            r"b.npz: has 2 channels, 2 others have 18",
        ),
        (lambda root: np.savez(root / "features/b.npz", np.zeros((18, 2, 3))), "6 cells, too few for 8 neighbors"),
        (lambda root: np.savez(root / "features/a.npz", np.full((18, 9, 12), np.nan)), "1944 NaN or Inf"),
        (
            lambda root: np.savez(root / "features/a.npz", np.zeros((9, 12), int)),
            r"\(channels, height, width\), got int64",
        ),
        (lambda root: (root / "features/a.npz").write_bytes(b""), "a.npz: "),
        (lambda root: (root / "probabilities/a.png").write_bytes(b""), "a.npy has the same name"),
    ],
)
def test_a_fault_is_named(folders, spoil, fault):
    spoil(folders)
    with pytest.raises(SystemExit, match=fault):
        refine_masks.run(command(folders, keys="features"))


def test_a_mask_in_colors_is_a_fault_and_a_hidden_file_is_none(folders):
    (folders / "masks/.a.png").write_bytes(b"a file system's own")
    Image.fromarray(np.zeros((18, 24, 3), np.uint8)).save(folders / "masks/b.png")
    with pytest.raises(
        SystemExit, match=r"1 fault\(s\):\n.*b\.png: expected a mask of one channel \(ids\), got colors"
    ) as caught:
        refine_masks.run(command(folders, predicted="masks", more=["--classes", "3"]))
    assert ".a.png" not in str(caught.value)


def test_masks_need_the_number_of_classes_and_an_empty_folder_is_a_fault(folders):
    with pytest.raises(SystemExit, match="expected `--classes` where predictions are masks"):
        refine_masks.run(command(folders, predicted="masks"))
    (folders / "empty").mkdir()
    with pytest.raises(SystemExit, match=r"empty: no file that ends in \.npy, \.npz, \.safetensors, \.png"):
        refine_masks.run(command(folders, predicted="empty"))
    more = ["--classes", "3", "--channels", "last"]
    with pytest.raises(SystemExit, match="no --channels where .*masks has masks alone"):
        refine_masks.run(command(folders, predicted="masks", more=more))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--alpha", "1.5"], r"--alpha: expected a number in \[0, 1\], got '1\.5'"),
        (["--max-nodes", "8"], "--max-nodes above --neighbors, 8, got 8"),
        (["--mask-confidence", "0"], r"--mask-confidence in \(0, 1\]"),
        (["--mask-confidence", "0.8"], r"no --mask-confidence where .* has no mask"),
        (["--images", "nowhere"], "--images to be a folder, got 'nowhere'"),
        (["--labeled-images", "x"], "--labeled-masks beside"),
        (["--out", "."], "--out outside --predictions"),
        (["--labeled-masks", ".", "--labeled-features", "."], "--features beside --labeled-features"),
    ],
)
def test_a_bad_option_is_named(folders, more, message, capsys, monkeypatch):
    monkeypatch.chdir(folders / "probabilities")
    with pytest.raises(SystemExit) as caught:
        refine_masks.run(command(folders, more=more))
    assert re.search(message, f"{capsys.readouterr().err}{caught.value}")


def test_pixel_features_are_alike_where_pixels_are():
    image = torch.zeros(3, 12, 20, dtype=torch.uint8)
    image[:, :, 10:] = 220
    features = pixel_features(image, position_weight=0.0)
    unit = F.normalize(features.flatten(1), dim=0).reshape(features.shape)
    torch.testing.assert_close(unit.norm(dim=0), torch.ones(12, 20))
    assert float(unit[:, 2, 3] @ unit[:, 9, 5]) == pytest.approx(1.0, abs=1e-5)
    assert float(unit[:, 2, 3] @ unit[:, 2, 16]) < 0  # dark and bright grey, which a plain cosine takes for the same
    placed = F.normalize(pixel_features(image).flatten(1), dim=0).reshape(features.shape)
    near, far = placed[:, 5, 2] @ placed[:, 5, 3], placed[:, 5, 2] @ placed[:, 11, 2]
    assert far < near < 1
