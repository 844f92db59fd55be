"""evaluate: every image its own mask, labels and classes of this network only, and results of one thing in a folder."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_files import answer
from PIL import Image
from small_checkpoint import write_run
from trainer_data import tiny, write_voc

datasets = pytest.importorskip("segmentation.datasets")
evaluate = pytest.importorskip("evaluate")
trained = pytest.importorskip("segmentation.trained")


@pytest.fixture(scope="module")
def best(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def call(best, tmp_path, capsys):
    """Runs the script with --out in an empty folder, without pictures unless asked."""

    def run(*more, checkpoint=best, out=tmp_path / "out"):
        where = [] if out is None else ["--out", out]
        pictures = [] if "--pictures" in more else ["--pictures", "0"]
        return answer(evaluate.run, [checkpoint, "--device", "cpu", *where, *pictures, *more], capsys)

    return run


def images(folder, *names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 30, 3), 40 * number, np.uint8)).save(folder / name)
    return folder


def masks(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


@pytest.mark.parametrize(
    ("names", "made"),
    [
        (["a/f.jpg", "b/f.jpg"], ["a/f.png", "b/f.png"]),
        (["f.jpg", "g/f.jpg", "g/h/f.jpg"], ["f.png", "g/f.png", "g/h/f.png"]),
        (["f.1.jpg", "f.2.jpg"], ["f.1.png", "f.2.png"]),
        (["IMG.JPG", ".hidden/x.jpg", "._IMG.jpg", "sub.jpg/y.jpg"], ["IMG.png", "sub.jpg/y.png"]),
    ],
)
def test_every_image_of_a_folder_has_its_own_mask(call, tmp_path, names, made):
    code, text = call("--images", images(tmp_path / "in", *names))
    assert code == 0, text
    assert masks(tmp_path / "out/labels") == made


def test_two_images_of_one_name_in_one_folder_are_named(call, tmp_path):
    code, text = call("--images", images(tmp_path / "in", "f.jpg", "f.png"))
    assert code == 1
    assert "in/f.png: f.jpg has the same name" in text
    assert not (tmp_path / "out").exists()


def test_images_of_a_data_set_in_two_folders_have_their_own_masks(call, tmp_path, best):
    data = best.parent.parent / "voc"
    lines = []
    for number, place in enumerate("ab"):
        (tmp_path / place).mkdir()
        stem = f"2007_00000{number + 4}"
        for kind, ending in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
            (tmp_path / place / f"f.{ending}").write_bytes((data / kind / f"{stem}.{ending}").read_bytes())
        lines.append(evaluate.Sample(tmp_path / place / "f.jpg", tmp_path / place / "f.png"))
    assert evaluate.names_of(lines, None) == ["a/f", "b/f"]


def test_files_of_other_endings_are_said_to_be_left_out(call, tmp_path):
    folder = images(tmp_path / "in", "a.jpg", "b.gif", "Thumbs.db.jpg")
    (folder / "Thumbs.db").write_bytes(b"x")
    code, text = call("--images", folder)
    assert code == 0
    assert "note: 1 file(s)" in text
    assert "b.gif" in text
    assert masks(tmp_path / "out/labels") == ["Thumbs.db.png", "a.png"]


def test_images_behind_a_linked_folder_are_found_and_a_circle_is_not_followed(call, tmp_path):
    images(tmp_path / "elsewhere", "a.jpg")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/round").symlink_to(tmp_path / "in")
    assert call("--images", tmp_path / "in")[0] == 0
    assert masks(tmp_path / "out/labels") == ["link/a.png"]


@pytest.mark.parametrize("label", [21, 40, 254])
def test_labels_of_classes_that_the_network_lacks_name_their_mask(call, best, tmp_path, label):
    mask = best.parent.parent / "voc/SegmentationClass/2007_000006.png"
    before = mask.read_bytes()
    Image.fromarray(np.full((32, 40), label, np.uint8)).save(mask)
    try:
        code, text = call()
    finally:
        mask.write_bytes(before)
    assert code == 1
    assert "2007_000006.png" in text
    assert str(label) in text


def test_masks_of_0_and_255_are_not_scored_as_a_network_without_faults(call, best):
    folder = best.parent.parent / "voc/SegmentationClass"
    before = {path: path.read_bytes() for path in folder.glob("*.png")}
    for path in before:
        Image.fromarray((np.arange(32 * 40) % 3 > 1).reshape(32, 40).astype(np.uint8) * 255).save(path)
    try:
        code, text = call()
    finally:
        for path, content in before.items():
            path.write_bytes(content)
    assert code == 1
    assert "all labeled pixels of the 3 test masks are 'background'" in text
    assert "255" in text


@pytest.mark.parametrize("order", [[1, 0, *range(2, 21)], list(range(20)), [*range(1, 21), 0], [*range(20)][::-1]])
def test_data_of_other_classes_is_refused(call, best, order):
    names = trained.open_checkpoint(best, "model", torch.device("cpu")).class_names
    (best.parent.parent / "voc/classes.txt").write_text("\n".join(names[each] for each in order))
    try:
        code, text = call()
    finally:
        (best.parent.parent / "voc/classes.txt").unlink()
    assert code == 1
    assert "classes in their order" in text


@pytest.mark.parametrize(
    "flags",
    [
        "--scales 0", "--scales -1", "--scales nan", "--scales inf", "--scales 1 99", "--scales x", "--pictures -2",
        "--pictures 1.5", "--mode sliding --window 0 16", "--mode sliding --window -32 32", "--window 32 32",
        "--device gpu", "--device meta", "--device cuda:77", "--device cpu:x", "--images /nowhere", "--data /nowhere",
        "--images . --data .",
    ],
)  # fmt: skip
def test_a_flag_that_makes_no_sense_is_named(call, flags, tmp_path):
    code, text = call(*flags.split())
    assert code
    flag = flags.split()[-3 if "--window" in flags else -2 if "1 99" not in flags else 0].removeprefix("--")
    assert flag in text
    assert not (tmp_path / "out").exists()


def test_an_evaluation_is_not_written_over_by_one_of_something_else(call, best, tmp_path):
    other = write_run(tmp_path / "two", data=best.parent.parent / "voc", method="fixmatch")
    assert call()[0] == 0
    assert call()[0] == 0  # the same again
    for more in (["--network", "teacher"], ["--flip"], ["--images", str(images(tmp_path / "in", "a.jpg"))]):
        code, text = call(*more)
        assert code == 1
        assert "expected --out to be new or of these settings (or --overwrite)" in text
    code, text = call(checkpoint=other)
    assert "settings.json says checkpoint" in text
    assert json.loads((tmp_path / "out/scores.json").read_text())["images"] == 3
    assert call("--images", tmp_path / "in", "--overwrite")[0] == 0
    assert masks(tmp_path / "out/labels") == ["a.png"]  # nothing of before stands among the new
    assert not (tmp_path / "out/classes.csv").exists()


def test_masks_of_somebody_else_are_never_written_over(call, tmp_path):
    folder = images(tmp_path / "data/images", "a.jpg").parent
    images(folder / "labels", "a.png")
    before = (folder / "labels/a.png").read_bytes()
    code, text = call("--images", folder / "images", "--overwrite", out=folder)
    assert code == 1
    assert "holds labels of another origin" in text
    assert (folder / "labels/a.png").read_bytes() == before
    assert "expected --out outside --images" in call("--images", folder, out=folder / "x")[1]


def test_an_out_that_cannot_be_written_is_named_before_any_work(call, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file/below", Path("/proc/none"), tmp_path / ("x" * 300)):
        code, text = call(out=out)
        assert code == 1
        assert "expected --out" in text
        assert "predicting" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {}}, "best.pt: expected a checkpoint of this trainer; .*Missing key"),
        ({"class_names": ["one"]}, "best.pt: .*size mismatch"),
        ({"crop": 3}, "best.pt: "),
        ({"recipe": {"data": 7}}, "best.pt: .*`data` to be a section"),
        ({"recipe": [1]}, "best.pt: "),
        ({"step": "x"}, "best.pt: "),
    ],
)
def test_a_checkpoint_of_odd_content_is_refused_by_name(tmp_path, best, change, message):
    path = write_run(tmp_path, data=best.parent.parent / "voc", **change)
    with pytest.raises(ValueError, match=message) as caught:
        trained.open_checkpoint(path, "model", torch.device("cpu"))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_a_run_that_diverged_is_refused(tmp_path, best):
    saved = torch.load(best, weights_only=True)["model"]
    saved["network.classifier.bias"][3] = torch.nan
    path = write_run(tmp_path, data=best.parent.parent / "voc", model=saved)
    with pytest.raises(ValueError, match="has diverged: NaN or Inf in 1 of its entries, network.classifier.bias"):
        trained.open_checkpoint(path, "model", torch.device("cpu"))


def test_checkpoints_of_one_name_have_titles_of_their_own():
    paths = [Path(f"/runs/{run}/mllc/{file}.pt") for run, file in (("a", "best"), ("b", "best"), ("b", "last"))]
    assert trained.titles(paths[:2]) == ["a/mllc", "b/mllc"]
    assert len(set(trained.titles(paths))) == 3


@pytest.mark.slow
def test_scores_survive_a_console_that_cannot_show_a_name(best, tmp_path):
    names = [f"класс {number} [bold]" for number in range(21)]
    path = write_run(tmp_path / "run", data=best.parent.parent / "voc", class_names=names)
    (best.parent.parent / "voc/classes.txt").write_text("\n".join(names), encoding="utf-8")
    command = [sys.executable, evaluate.__file__, path, "--device", "cpu", "--pictures", "0", "--out", tmp_path / "out"]
    environment = {"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True)
    (best.parent.parent / "voc/classes.txt").unlink()
    assert done.returncode == 0, done.stderr.decode()
    assert len(json.loads((tmp_path / "out/scores.json").read_text())["classes"]) == 21
    assert "класс 3 [bold]" in (tmp_path / "out/classes.csv").read_text(encoding="utf-8")


LEFT_FIRST = "name,r,g,b\nleft,255,0,0\nright,0,255,0\n"
RIGHT_FIRST = "name,r,g,b\nright,0,255,0\nleft,255,0,0\n"


def sides(folder, classes=None, lists=("train", "test")):
    """Pairs whose masks are red on the left and green on the right; lists of two images each."""
    names = [f"{split}{number}" for split in lists for number in range(2)]
    for name in names:
        for kind in ("images", "masks"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            colors = np.zeros((32, 40, 3), np.uint8)
            colors[:, :30, 0] = colors[:, 30:, 1] = 255
            Image.fromarray(colors).save(folder / kind / f"{name}.png")
    for split in lists:
        (folder / f"{split}.txt").write_text("\n".join(name for name in names if name.startswith(split)))
    if classes is not None:
        (folder / "classes.csv").write_text(classes)
    return folder


def found_by(recipe, names, *flags, layout="pairs"):
    """What evaluate takes for the test images of a network of these classes, and the labels of the first."""
    given = evaluate.parse(["best.pt", *map(str, flags)])
    network = trained.Trained(None, recipe, names, layout, (32, 32), 4)
    samples, _ = evaluate.find_samples(given, network, Path("nowhere"))
    return [sample.image for sample in samples], datasets.read_labels(samples[0])


@pytest.fixture
def with_classes(tmp_path):
    """The recipe of a training with a class file of its own, on a folder whose class file has another order."""
    (tmp_path / "mine.csv").write_text(LEFT_FIRST)
    folder = sides(tmp_path / "pairs", RIGHT_FIRST)
    return tiny(data__layout="pairs", data__folder=str(folder), data__classes=str(tmp_path / "mine.csv"))


def test_masks_are_read_by_the_class_file_of_the_training(with_classes):
    _, labels = found_by(with_classes, ["left", "right"])
    assert (labels[:, :30] == 0).all()
    assert (labels[:, 30:] == 1).all()


def test_without_the_class_file_of_the_training_names_are_compared_and_another_one_is_taken(with_classes, tmp_path):
    mine, other = tmp_path / "mine.csv", tmp_path / "other.csv"
    mine.rename(other)
    with pytest.raises(ValueError, match="in their order, .* class 'right' where the network has 'left'; --classes"):
        found_by(with_classes, ["left", "right"])
    _, labels = found_by(with_classes, ["left", "right"], "--classes", other)
    assert (labels[:, :30] == 0).all()


def test_a_folder_of_test_images_alone_is_scored(with_classes, tmp_path):
    moved = sides(tmp_path / "moved", lists=("test",))
    with_classes.data.test = f"{with_classes.data.folder}/test.txt"  # as a run's recipe holds it: of the old folder
    paths, labels = found_by(with_classes, ["left", "right"], "--data", moved)
    assert paths == [moved / "images/test0.png", moved / "images/test1.png"]
    assert (labels[:, :30] == 0).all()
    voc = write_voc(tmp_path / "voc", train=0, val=3)
    (voc / "ImageSets/Segmentation/train.txt").unlink()
    recipe, names = tiny(data__layout="voc", data__folder="gone", data__labeled="2"), list(datasets.VOC_CLASSES)
    assert len(found_by(recipe, names, "--data", voc, layout="voc")[0]) == 3
