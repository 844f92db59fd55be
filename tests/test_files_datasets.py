"""Folders and YAML as people's tools lay them out are opened alike; every fault is listed at once."""

import numpy as np
import pytest
import torch
from dataset_layouts import COLORED, LAYOUTS, MAP, NAMES, flat, labels_of, write_pair
from PIL import Image

from graphcorrect.files import LabelMap, Pair, check_pairs, open_dataset, read_mask, write_dataset_yaml, write_mask


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_names_the_same_pairs(tmp_path, layout):
    data = open_dataset(layout(tmp_path))
    assert {split: [pair.name for pair in pairs] for split, pairs in data.splits.items()} == NAMES
    assert data.label_map.names == MAP.names
    for pair in data.pairs:
        assert pair.image.stem == pair.mask.stem == pair.name
        assert torch.equal(read_mask(pair.mask, data.label_map), labels_of(pair.name))
    check_pairs(data.pairs, data.label_map)


def test_masks_by_a_template_of_the_images_path(tmp_path):
    for split, names in NAMES.items():
        for name in names:
            write_pair(tmp_path / f"{split}/images/{name}.jpg", tmp_path / f"{split}/made/{name}.png")
            made = tmp_path / f"{split}/made/{name}.png"
            made.rename(made.with_name(f"{name}_mask.png"))
    (tmp_path / "data.yaml").write_text(
        "train: {images: train/images, masks: '{image_path.parent}/../made/{image_path.stem}_mask.png'}\n"
        "val: {images: val/images, masks: 'val/made/{image_path.stem}_mask.png'}\n"
        "classes: {0: background, 1: road, 2: car}\n"
    )
    data = open_dataset(tmp_path / "data.yaml")
    assert {split: [pair.mask.name for pair in pairs] for split, pairs in data.splits.items()} == {
        "train": ["a_mask.png", "b_mask.png"],
        "val": ["c_mask.png"],
    }
    (tmp_path / "data.yaml").write_text(
        "train: {images: train/images, masks: '{image_path.__class__}'}\nclasses: {0: background, 1: road}\n"
    )
    assert [pair.mask for pair in open_dataset(tmp_path / "data.yaml").pairs] == [None, None]


def test_images_without_masks_and_masks_without_images_are_pairs_too(tmp_path):
    write_pair(tmp_path / "images/a.jpg", tmp_path / "masks/a.png")
    write_pair(tmp_path / "images/b.jpg", None)
    write_pair(tmp_path / "images/c.jpg", tmp_path / "masks/c.png")
    (tmp_path / "images/c.jpg").unlink()
    (tmp_path / "masks/notes.xyz").write_text("what is left out")
    data = open_dataset(tmp_path)
    assert data.label_map is None
    assert [(p.name, p.image is None, p.mask is None) for p in data.splits["all"]] == [
        ("a", False, False),
        ("b", False, True),
        ("c", True, False),
    ]
    assert data.left_out == [tmp_path / "masks/notes.xyz"]
    check_pairs(data.pairs, 3)


def test_every_faulty_file_is_listed(tmp_path):
    root = flat(tmp_path)
    write_pair(root / "images/d.jpg", root / "masks/d.png")
    write_pair(root / "images/e.jpg", root / "masks/e.png")
    (root / "masks/a.png").write_bytes(b"")
    (root / "masks/b.png").write_bytes((root / "masks/b.png").read_bytes()[:50])
    Image.fromarray(np.full((2, 3), 7, np.uint8)).save(root / "masks/c.png")
    Image.fromarray(np.zeros((3, 2), np.uint8)).save(root / "masks/d.png")
    (root / "images/e.jpg").write_text("<!doctype html>")
    for split in NAMES:
        (root / f"{split}.txt").unlink()
    with pytest.raises(ValueError, match="the data set has 5 fault") as caught:
        check_pairs(open_dataset(root).pairs, MAP)
    said = ["masks/a.png: is empty", "masks/b.png: ", "masks/c.png: expected ids 0 to 2 or 255, got [7]",
            "masks/d.png: is (3, 2), its image is (2, 3) (height, width)", "images/e.jpg: is a web page"]  # fmt: skip
    for line, words in zip(str(caught.value).splitlines()[1:], said, strict=True):
        assert words in line


def test_names_that_nothing_has_and_files_of_one_name_are_listed_together(tmp_path):
    root = flat(tmp_path)
    (root / "train.txt").write_text("a\nnowhere\nimages/b.jpg\n")
    Image.fromarray(np.zeros((2, 3), np.uint8)).save(root / "masks/c.bmp")
    with pytest.raises(ValueError, match="the data set has 2 fault") as caught:
        open_dataset(root)
    assert "train.txt, line 2: no image or mask is called 'nowhere'" in str(caught.value)
    assert "masks/c.png: c.bmp has the same name" in str(caught.value)


def test_polygons_are_no_masks(tmp_path):
    """YOLO's `labels/` of text files: nothing is made of them, and nobody is told that there were masks."""
    write_pair(tmp_path / "images/a.jpg", None)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("0 0.1 0.1 0.2 0.2 0.3 0.1")
    with pytest.raises(ValueError, match="a data set of images/ and masks/"):
        open_dataset(tmp_path)


def test_a_yaml_among_the_folders_says_what_masks_mean(tmp_path):
    root = flat(tmp_path)
    (root / "classes.txt").rename(root / "notes.txt")
    (root / "data.yaml").write_text("names: {0: background, 1: road, 2: car}")
    assert open_dataset(root).label_map.names == MAP.names


@pytest.mark.parametrize("line", ["images/b.jpg", "./images/b.jpg", "b", "b.jpg", "data/images/b.jpg", "images\\b.jpg",
                                  '"b"', "images/b.jpg masks/b.png", "images/b.jpg,masks/b.png"])  # fmt: skip
def test_a_line_may_name_an_image_in_every_usual_way(tmp_path, line):
    root = flat(tmp_path)
    (root / "train.txt").write_text(line)
    assert [pair.name for pair in open_dataset(root).splits["train"]] == ["b"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("names: [a, b]\n", "names none of train, val, test"),
        ("names: [a, b]\ntrain: nowhere\n", "names 'nowhere', which is not there"),
        ("classes: {0: a, 1: b}\ntrain: {images: nowhere, masks: masks}\n", "which is no folder"),
        ("names: [a, b]\ntrain: empty\n", "no image and no mask"),
        ("train: empty\n", "expected `classes`"),
        ("- 1\n", "expected a table"),
        ("{", "data.yaml: expected a data set's YAML"),
        ("", "is empty"),
    ],
)
def test_a_yaml_that_names_nothing_is_refused(tmp_path, content, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "data.yaml").write_text(content)
    with pytest.raises(ValueError, match=words):
        open_dataset(tmp_path / "data.yaml")


def test_a_folder_without_a_data_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a data set of images/ and masks/"):
        open_dataset(tmp_path)
    with pytest.raises(ValueError, match="to be a folder, a zip archive or a YAML"):
        open_dataset(tmp_path / "nowhere")


@pytest.mark.parametrize("form", ["ultralytics", "lightly"])
@pytest.mark.parametrize("ids", [{}, {7: 0, 8: 1, 3: 2, 0: 255}])
def test_a_yaml_is_read_as_it_was_written(tmp_path, form, ids):
    label_map = LabelMap(MAP.names, {}, ids)
    write_pair(tmp_path / "images/train/a.jpg", tmp_path / "masks/train/a.png", label_map=label_map)
    write_dataset_yaml(tmp_path / "data.yaml", label_map, {"train": "images/train"}, form=form)
    data = open_dataset(tmp_path / "data.yaml")
    assert data.label_map.names == MAP.names
    assert [pair.name for pair in data.splits["train"]] == ["a"]
    assert torch.equal(read_mask(data.pairs[0].mask, data.label_map), labels_of("a"))


def test_a_lone_class_is_no_lone_name_of_ultralytics(tmp_path):
    """Which would be a class beside a background, every label one higher."""
    write_pair(tmp_path / "images/a.jpg", tmp_path / "masks/a.png")
    write_mask(tmp_path / "masks/a.png", torch.tensor([[0, 0, 255]] * 2), 1)
    with pytest.raises(ValueError, match="two classes or more, .* got 'road'; name both, or write form='lightly'"):
        write_dataset_yaml(tmp_path / "data.yaml", LabelMap(("road",)), {"train": "images"})
    assert not (tmp_path / "data.yaml").exists()
    write_dataset_yaml(tmp_path / "data.yaml", LabelMap(("road",)), {"train": "images"}, form="lightly")
    data = open_dataset(tmp_path / "data.yaml")
    assert data.label_map.names == ("road",)
    assert read_mask(data.pairs[0].mask, data.label_map).tolist() == [[0, 0, 255]] * 2


def test_a_yaml_has_no_place_for_colors_beside_ids(tmp_path):
    both = LabelMap(("a", "b"), {(0, 0, 0): 0, (9, 9, 9): 1}, {3: 0, 4: 1})
    with pytest.raises(ValueError, match="colors or of ids, got both"):
        write_dataset_yaml(tmp_path / "data.yaml", both, {"train": "images"}, form="lightly")


def test_a_yaml_holds_colors_as_lightly_has_them(tmp_path):
    colored = LabelMap(MAP.names, {**COLORED.colors, (9, 9, 9): 255, (8, 8, 8): 1})
    write_pair(tmp_path / "images/a.jpg", tmp_path / "masks/a.png", "rgb", colored)
    with pytest.raises(ValueError, match="without colors"):
        write_dataset_yaml(tmp_path / "data.yaml", colored, {"train": "images"})
    write_dataset_yaml(tmp_path / "data.yaml", colored, {"train": "images"}, form="lightly")
    data = open_dataset(tmp_path / "data.yaml")
    assert data.label_map.colors == colored.colors
    assert torch.equal(read_mask(data.pairs[0].mask, data.label_map), labels_of("a"))
    assert data.pairs == [Pair("a", tmp_path / "images/a.jpg", tmp_path / "masks/a.png")]
