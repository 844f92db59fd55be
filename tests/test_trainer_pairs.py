"""The layout `pairs`: images and masks of any usual kind and size, lists, masks only where they are needed."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from trainer_data import pictures, tiny

from graphcorrect.files import LabelMap, write_label_map, write_mask

checking = pytest.importorskip("segmentation.checking")
datasets = pytest.importorskip("segmentation.datasets")
engine = pytest.importorskip("segmentation.engine")
layouts = pytest.importorskip("segmentation.layouts")
manifest = pytest.importorskip("segmentation.manifest")
recipes = pytest.importorskip("segmentation.recipe")

NAMES = [f"patient{number // 3:03d}_frame01_slice{number % 3:02d}" for number in range(12)]
CLASSES = LabelMap(("background", "road", "car"))
COLORED = LabelMap(CLASSES.names, {(0, 0, 0): 0, (128, 64, 128): 1, (0, 0, 142): 2, (224, 224, 192): 255})
LISTS = {"train": NAMES[:9], "test": NAMES[9:], "labeled": NAMES[:4]}


def write_pairs(folder, form="grey", label_map=CLASSES, masks="masks", grey=False, ending=".png"):
    """Images of two sizes and their masks with some void; lists; names of classes."""
    for name in ("images", masks):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(NAMES):
        size = ((40, 48), (56, 36))[number % 2]
        image, ids = next(pictures(1, size, 3, seed=number))
        picture = Image.fromarray(image)
        (picture.convert("L") if grey else picture).save(folder / "images" / f"{name}{ending}")
        ids[:3] = 255
        write_mask(folder / masks / f"{name}.png", torch.from_numpy(ids.astype(np.int64)), label_map, form=form)
    for split, names in LISTS.items():
        (folder / f"{split}.txt").write_text("\n".join(names))
    if label_map.colors:
        write_label_map(folder / "labelmap.txt", label_map)
    else:
        (folder / "classes.txt").write_text("\n".join(f"{number} {name}" for number, name in enumerate(CLASSES.names)))
    return folder


def opened(folder, out, **settings):
    settings = {"labeled": str(folder / "labeled.txt")} | settings
    return layouts.open_data(recipes.Data(folder=str(folder), **settings), 0, out)


def names(samples):
    return [sample.image.stem for sample in samples]


@pytest.mark.parametrize("layout", ["auto", "pairs"])
def test_lists_say_which_images_are_labeled(tmp_path, layout):
    data = opened(write_pairs(tmp_path / "data"), tmp_path, layout=layout)
    assert data.layout == "pairs"
    assert names(data.labeled) == NAMES[:4]
    assert names(data.unlabeled) == NAMES[4:9]
    assert names(data.test) == NAMES[9:]
    assert data.class_names == ["background", "road", "car"]
    assert all(sample.mask == tmp_path / "data/masks" / f"{sample.image.stem}.png" for sample in data.labeled)
    checking.check(data)


FORMS = {
    "ids": {},
    "palette": {"form": "palette"},
    "16 bits": {"form": "grey16"},
    "colors": {"form": "rgb", "label_map": COLORED},
    "colors and alpha": {"form": "rgba", "label_map": COLORED},
    "palette of the map's colors": {"form": "palette", "label_map": COLORED},
    "grey images": {"grey": True},
    "JPEG images": {"ending": ".jpg", "grey": True},
    "TIFF images": {"ending": ".TIFF"},
    "annotations": {"masks": "annotations"},
}


@pytest.mark.parametrize("form", FORMS)
def test_masks_and_images_of_every_kind_hold_the_same(tmp_path, form):
    data = opened(write_pairs(tmp_path / "data", **FORMS[form]), tmp_path)
    survey = checking.check(data)
    for number, sample in enumerate(data.labeled):
        size = ((40, 48), (56, 36))[number % 2]
        ids = next(pictures(1, size, 3, seed=number))[1]
        ids[:3] = 255
        labels = datasets.read_labels(sample)
        assert labels.dtype == torch.uint8
        assert labels.numpy().tolist() == ids.tolist()
        counts = survey.found["labeled"][number][1].counts
        assert counts[255] == 3 * size[1]
        assert counts.sum() == ids.size


def test_unlabeled_images_need_no_mask(tmp_path):
    folder = write_pairs(tmp_path / "data")
    for name in NAMES[4:9]:
        (folder / "masks" / f"{name}.png").unlink()
    checking.check(opened(folder, tmp_path))
    (folder / "masks" / f"{NAMES[1]}.png").unlink()
    (folder / "masks" / f"{NAMES[10]}.png").unlink()
    with pytest.raises(ValueError, match=r"2 fault\(s\)") as caught:
        checking.check(opened(folder, tmp_path))
    assert f"{NAMES[1]}.png: missing" in str(caught.value)
    assert f"{NAMES[10]}.png: missing" in str(caught.value)


@pytest.mark.parametrize(
    "line", ["{}", "{}.png", "images/{}.png", "images/{}.png masks/{}.png", "images/{}.png,masks/{}.png"]
)
def test_a_line_names_an_image_in_every_usual_way(tmp_path, line):
    folder = write_pairs(tmp_path / "data")
    (folder / "labeled.txt").write_text("\n".join(line.format(name, name) for name in NAMES[:4]))
    data = opened(folder, tmp_path)
    assert names(data.labeled) == NAMES[:4]
    assert [sample.mask.stem for sample in data.labeled] == NAMES[:4]
    assert names(opened(folder, tmp_path, labeled=str(tmp_path / "labeled.txt")).labeled) == NAMES[:4]  # the run's own


def test_folders_of_splits_serve_instead_of_lists(tmp_path):
    folder = write_pairs(tmp_path / "data")
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir()
            for name in LISTS["train" if split == "train" else "test"]:
                (folder / kind / f"{name}.png").rename(folder / kind / split / f"{name}.png")
    for name in LISTS:
        (folder / f"{name}.txt").unlink()
    data = opened(folder, tmp_path, labeled="4")
    assert (len(data.labeled), len(data.unlabeled)) == (4, 5)
    assert names(data.test) == NAMES[9:]
    assert data.labeled[0].mask.parent == folder / "masks/train"
    checking.check(data)


def test_without_a_list_all_other_images_are_trained_on(tmp_path):
    folder = write_pairs(tmp_path / "data")
    (folder / "train.txt").unlink()
    data = opened(folder, tmp_path)
    assert sorted(names(data.labeled + data.unlabeled)) == NAMES[:9]
    (folder / "test.txt").rename(folder / "val.txt")
    assert names(opened(folder, tmp_path).test) == NAMES[9:]
    (folder / "val.txt").rename(folder / "mine.txt")
    data = opened(folder, tmp_path, test="mine.txt")
    assert (names(data.test), sorted(names(data.labeled + data.unlabeled))) == (NAMES[9:], NAMES[:9])
    with pytest.raises(ValueError, match="no test images"):
        checking.check(opened(folder, tmp_path))


def no_names(folder):
    (folder / "classes.txt").unlink()


def odd_colors(folder):
    Image.fromarray(np.full((40, 48, 3), 77, np.uint8)).save(folder / f"masks/{NAMES[0]}.png")


def odd_size(folder):
    write_mask(folder / f"masks/{NAMES[1]}.png", torch.zeros(8, 8, dtype=torch.int64), CLASSES)


def odd_line(folder):
    (folder / "labeled.txt").write_text("\n".join([*NAMES[:3], "patient777"]))


@pytest.mark.parametrize(
    ("spoil", "options", "words"),
    [
        (no_names, {}, "names of the classes in"),
        (odd_colors, {}, f"{NAMES[0]}.png: unreadable"),
        (odd_colors, {"form": "rgb", "label_map": COLORED}, f"{NAMES[0]}.png: expected the 4 colors of the label map"),
        (odd_size, {}, f"{NAMES[1]}.png: is (8, 8), its image is (56, 36)"),
        (odd_line, {}, "patient777"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, spoil, options, words):
    folder = write_pairs(tmp_path / "data", **options)
    spoil(folder)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the words are compared below)
        checking.check(opened(folder, tmp_path))
    assert words in str(caught.value)


@pytest.mark.parametrize("form", ["ids", "colors"])
def test_a_method_trains_on_images_of_two_sizes(tmp_path, form):
    folder = write_pairs(tmp_path / "data", **FORMS[form])
    settings = {"data__folder": str(folder), "data__labeled": str(folder / "labeled.txt"), "evaluation__dice": "volume"}
    recipe = tiny(**settings, data__layout="pairs", methods=("fixmatch+anchors+graphs",))
    results = engine.run(recipe, tmp_path / "out")
    method = results["fixmatch+anchors+graphs"]
    assert 0 <= method["student_dice"] <= 1
    assert set(method["student_dice_by_class"]) == set(CLASSES.names)


def test_another_meaning_of_the_colors_is_another_run(tmp_path):
    folder = write_pairs(tmp_path / "data", form="rgb", label_map=COLORED)
    recipe, crop = tiny(data__folder=str(folder)), (32, 32)
    data = opened(folder, tmp_path)
    began = manifest.describe(data, recipe, crop, {})
    assert manifest.as_it_began(data, recipe, began, {}) == data
    swapped = {**COLORED.colors, (128, 64, 128): 2, (0, 0, 142): 1}
    write_label_map(folder / "labelmap.txt", LabelMap(CLASSES.names, swapped))
    with pytest.raises(ValueError, match="ids and colors of the classes are others"):
        manifest.as_it_began(opened(folder, tmp_path), recipe, began, {})


def test_labeled_images_are_drawn_of_those_that_have_a_mask(tmp_path):
    folder = write_pairs(tmp_path / "data")
    for name in LISTS["train"][:4]:
        (folder / f"masks/{name}.png").unlink()
    data = opened(folder, tmp_path, labeled="5")
    assert sorted(names(data.labeled)) == LISTS["train"][4:]
    assert sorted(names(data.unlabeled)) == LISTS["train"][:4]
    assert any(
        re.search(r"4 training image\(s\) have no mask and stay unlabeled: \S+\.png", note) for note in data.notes
    )
    with pytest.raises(ValueError, match=r"`data\.labeled` of at most 5, the training images that have a mask, got 6"):
        opened(folder, tmp_path / "other", labeled="6")
