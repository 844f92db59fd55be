"""Every file that a run reads, replaced in turn by something else: named in words, or of no matter."""

import os
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from trainer_data import write_camvid, write_cityscapes, write_voc

checking = pytest.importorskip("segmentation.checking")
checkpoint = pytest.importorskip("segmentation.checkpoint")
layouts = pytest.importorskip("segmentation.layouts")
recipes = pytest.importorskip("segmentation.recipe")
recipe_files = pytest.importorskip("segmentation.recipe_files")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x80
    path.write_bytes(content)


def replace(path, make):
    path.unlink()
    make(path)


REPLACED = {
    "empty": lambda path: path.write_bytes(b""),
    "a folder": lambda path: replace(path, lambda path: path.mkdir()),
    "a text": lambda path: path.write_text("this is nothing of the kind\n"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: max(1, path.stat().st_size // 3)]),
    "a flipped bit": flip,
    "a link to nowhere": lambda path: replace(path, lambda path: path.symlink_to("nowhere")),
    "a link to itself": lambda path: replace(path, lambda path: path.symlink_to(path.name)),
    "zeros": lambda path: path.write_bytes(bytes(1000)),
    "not there": lambda path: path.unlink(),
}

FILES = {
    "voc": ["JPEGImages/2007_000001.jpg", "SegmentationClass/2007_000001.png", "JPEGImages/2007_000009.jpg",
            "SegmentationClass/2007_000009.png", "ImageSets/Segmentation/train.txt", "ImageSets/Segmentation/val.txt",
            "classes.txt", "labeled.txt", "unlabeled.txt"],
    "cityscapes": ["leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png",
                   "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png"],
    "camvid": ["train/0001.jpg", "trainannot/0001.png", "train.txt", "test.txt", "classes.txt"],
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    voc, camvid = write_voc(root / "voc"), write_camvid(root / "camvid")
    (voc / "classes.txt").write_text("\n".join(f"class {number}" for number in range(21)))
    (voc / "labeled.txt").write_text("\n".join(f"2007_{number:06d}" for number in (0, 1, 2)))
    (voc / "unlabeled.txt").write_text("\n".join(f"2007_{number:06d}" for number in range(3, 8)))
    for split, count in (("train", 8), ("test", 3)):
        (camvid / f"{split}.txt").write_text("\n".join(f"{number:04d}" for number in range(count)))
    write_cityscapes(root / "cityscapes")
    return root


CASES = [(layout, name, kind) for layout, names in FILES.items() for name in names for kind in REPLACED]
# Without them the layout's own take their place, as for a folder that never had them.
OPTIONAL = {"classes.txt", "unlabeled.txt", "train.txt", "test.txt"}


def looked_at(root, layout, out):
    """(what is said of a data set, whether it is refused, how many images and classes it has)."""
    labeled = str(root / layout / "labeled.txt") if layout == "voc" else "6"
    try:
        data = layouts.open_data(recipes.Data(folder=str(root / layout), labeled=labeled), 0, out)
        notes = checking.check(data).notes
    except (ValueError, OSError) as error:
        return str(error), True, []
    return "\n".join(notes), False, [*map(len, data[:4]), len(data.class_names)]


@pytest.mark.parametrize(("layout", "name", "kind"), CASES)
def test_what_takes_a_files_place_is_named(whole, tmp_path, layout, name, kind):
    shutil.copytree(whole / layout, tmp_path / layout)
    REPLACED[kind](tmp_path / layout / name)
    said, is_refused, counts = looked_at(tmp_path, layout, tmp_path / "out")
    file = name.rsplit("/", 1)[-1]
    if is_refused:
        assert file in said
    elif file not in said:  # nothing is left out in silence but what a flipped bit, or a shorter list, cannot tell
        may_be_absent = file in OPTIONAL or layout == "cityscapes" and name.startswith("leftImg8bit")
        is_hidden_mask = file == "0001.png"  # of an unlabeled image, which needs none
        if kind == "not there":
            assert may_be_absent or is_hidden_mask
        elif kind == "cut":
            assert file.endswith(".txt")
        else:
            assert kind == "a flipped bit"
            assert counts == looked_at(whole, layout, tmp_path / "was")[2]


@pytest.mark.parametrize("kind", REPLACED)
@pytest.mark.parametrize("name", ["resume.pt", "recipe.yaml"])
def test_what_takes_the_place_of_a_runs_own_files_is_named(tmp_path, name, kind):
    path = tmp_path / name
    checkpoint.save({"weights": torch.randn(500), "state": 1}, tmp_path / "resume.pt")
    (tmp_path / "recipe.yaml").write_text("data:\n  labeled: '4'\noptimizer:\n  learning_rate: 0.001\n")
    REPLACED[kind](path)
    if name == "resume.pt":
        if kind == "not there":
            assert checkpoint.load_resume_point(tmp_path, 1) is None
            return
        with pytest.raises(ValueError, match=re.escape(str(path))):
            checkpoint.load(path)
    elif kind not in ("empty", "cut"):  # which are recipes, and less than that of a run: test_faults_runs.py
        with pytest.raises((ValueError, OSError), match=re.escape(str(path))):
            recipes.from_dict(recipe_files.read_recipe_file(path), str(path))


def test_train_ids_under_the_name_of_label_ids_are_refused(tmp_path):
    folder = write_cityscapes(tmp_path / "city")
    for mask in folder.glob("gtFine/*/*/*.png"):
        Image.fromarray((np.array(Image.open(mask)) % 19).astype(np.uint8)).save(mask)
    data = layouts.open_data(recipes.Data(folder=str(folder), labeled="3"), 0, tmp_path / "out")
    with pytest.raises(ValueError, match=r"all 11 masks of that kind has no label id above 18, .*_labelTrainIds.png"):
        checking.check(data)


def test_a_file_without_permission_is_named(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    folder = write_voc(tmp_path / "voc")
    image = folder / "JPEGImages/2007_000001.jpg"
    image.chmod(0)
    with pytest.raises(ValueError, match=r"2007_000001.jpg: unreadable .*[Pp]ermission"):
        checking.check(layouts.open_data(recipes.Data(folder=str(folder), labeled="3"), 0, tmp_path / "out"))


@pytest.mark.parametrize(
    "text", ["schedule:\n  steps: 7\nschedule:\n  steps: 9\n", "schedule:\n  steps: 7\n  steps: 9\n"]
)
def test_a_key_that_stands_twice_in_a_recipe_is_named(tmp_path, text):
    path = tmp_path / "twice.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"twice\.yaml: is no YAML \(the key '(schedule|steps)' stands twice"):
        recipe_files.read_recipe_file(path)
