"""Folders, archives and YAML as people's tools lay them out are opened alike; every fault is listed at once."""

import io
import os
import stat
import zipfile

import numpy as np
import pytest
import torch
from broken_files import FORMS, spoiled
from PIL import Image

from graphcorrect.files import (
    FileFault,
    LabelMap,
    Pair,
    check_pairs,
    open_dataset,
    read_mask,
    unpack,
    write_cvat_zip,
    write_dataset_yaml,
    write_label_map,
    write_mask,
)

MAP = LabelMap(("background", "road", "car"))
COLORED = LabelMap(MAP.names, {(0, 0, 0): 0, (128, 64, 128): 1, (0, 0, 142): 2})
NAMES = {"train": ["a", "b"], "val": ["c"]}


def labels_of(name):
    return torch.tensor([[ord(name) % 3, 1, 2], [2, 0, 255]])


def write_pair(image, mask, form="grey", label_map=MAP):
    """An image and, unless None, its mask."""
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(image)
    if mask is not None:
        mask.parent.mkdir(parents=True, exist_ok=True)
        write_mask(mask, labels_of(mask.stem), label_map, form=form)


def flat(root):
    for name in "abc":
        write_pair(root / f"images/{name}.jpg", root / f"masks/{name}.png")
    for split, names in NAMES.items():
        (root / f"{split}.txt").write_text("\n".join(names))
    (root / "classes.txt").write_text("\n".join(MAP.names))
    return root


def splits_inside(root):
    for split, names in NAMES.items():
        for name in names:
            write_pair(root / f"images/{split}/{name}.jpg", root / f"masks/{split}/{name}.png", "palette")
    (root / "classes.txt").write_text("0 background\n1 road\n2 car\n255 void\n")
    return root


def splits_around(root):
    for split, names in NAMES.items():
        for name in names:
            write_pair(root / f"{split}/images/{name}.png", root / f"{split}/masks/{name}.png", "grey16")
    write_label_map(root / "classes.txt", MAP)
    return root


def ultralytics(root):
    for split, names in NAMES.items():
        for name in names:
            write_pair(root / f"data/images/{split}/{name}.jpg", root / f"data/masks/{split}/{name}.png")
    (root / "data.yaml").write_text(
        "path: data\ntrain: images/train\nval: images/val\nmasks_dir: masks\nnames: {0: background, 1: road, 2: car}\n"
    )
    return root / "data.yaml"


def ultralytics_lists(root):
    ultralytics(root)
    for split, names in NAMES.items():
        (root / f"data/{split}.txt").write_text("".join(f"./images/{split}/{name}.jpg\n" for name in names))
    (root / "data.yaml").write_text("path: data\ntrain: train.txt\nval: [val.txt]\nnames: [background, road, car]\n")
    return root / "data.yaml"


def lightly(root):
    splits_around(root)
    write_dataset_yaml(
        root / "data.yaml", MAP, {split: f"{split}/images" for split in NAMES}, masks="masks", form="lightly"
    )
    return root / "data.yaml"


def voc(root):
    for name in "abc":
        write_pair(root / f"JPEGImages/{name}.jpg", root / f"SegmentationClass/{name}.png", "palette", COLORED)
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for split, names in NAMES.items():
        (lists / f"{split}.txt").write_text("\n".join(names))
    write_label_map(root / "labelmap.txt", COLORED)
    return root


LAYOUTS = [flat, splits_inside, splits_around, ultralytics, ultralytics_lists, lightly, voc]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_names_the_same_pairs(tmp_path, layout):
    data = open_dataset(layout(tmp_path))
    assert {split: [pair.name for pair in pairs] for split, pairs in data.splits.items()} == NAMES
    assert data.label_map.names == MAP.names
    for pair in data.pairs:
        assert pair.image.stem == pair.mask.stem == pair.name
        assert torch.equal(read_mask(pair.mask, data.label_map), labels_of(pair.name))
    check_pairs(data.pairs, data.label_map)


@pytest.mark.parametrize("layout", [flat, splits_inside, splits_around, voc])
@pytest.mark.parametrize("inside", ["", "export/"])
def test_a_folder_may_be_an_archive(tmp_path, layout, inside):
    folder = layout(tmp_path / "data")
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, inside + path.relative_to(folder).as_posix())
        archive.writestr(f"__MACOSX/{inside}._a.png", b"")
    for _ in range(2):  # the second time finds the files of the first
        data = open_dataset(tmp_path / "data.zip", unpack_to=tmp_path / "unpacked")
    assert {split: [pair.name for pair in pairs] for split, pairs in data.splits.items()} == NAMES
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


def test_cvat_exports_without_images(tmp_path):
    masks = [("a", labels_of("a")), ("city/b", labels_of("b"))]
    write_cvat_zip(tmp_path / "export.zip", iter(masks), COLORED)
    with zipfile.ZipFile(tmp_path / "export.zip") as archive:
        assert sorted(archive.namelist()) == [
            "ImageSets/Segmentation/default.txt",
            "SegmentationClass/a.png",
            "SegmentationClass/city/b.png",
            "labelmap.txt",
        ]
        assert archive.read("ImageSets/Segmentation/default.txt") == b"a\ncity/b\n"
        assert archive.read("labelmap.txt").splitlines()[:3] == [
            b"# label:color_rgb:parts:actions",
            b"background:0,0,0::",
            b"road:128,64,128::",
        ]
        picture = Image.open(io.BytesIO(archive.read("SegmentationClass/a.png")))
        assert (picture.mode, picture.getpixel((1, 0))) == ("RGB", (128, 64, 128))
    data = open_dataset(tmp_path / "export.zip", unpack_to=tmp_path / "unpacked")
    assert [(pair.name, pair.image) for pair in data.splits["default"]] == [("a", None), ("city/b", None)]
    assert data.label_map.names == MAP.names
    for pair, (_, labels) in zip(data.pairs, masks, strict=True):
        assert torch.equal(read_mask(pair.mask, data.label_map), labels)


@pytest.mark.parametrize(
    "label_map", [MAP, COLORED, LabelMap(("road", "car", "sky")), LabelMap(("road", "car", "sky"), {(9, 9, 9): 2})]
)
@pytest.mark.parametrize("has_void", [False, True])
def test_an_archive_for_cvat_is_read_as_it_was_written(tmp_path, label_map, has_void):
    """Black is what CVAT takes for no class, unless a class is black."""
    labels = labels_of("a").masked_fill(labels_of("a") == 255, 255 if has_void else 0)
    write_cvat_zip(tmp_path / "export.zip", [("a", labels)], label_map)
    data = open_dataset(tmp_path / "export.zip", unpack_to=tmp_path / "unpacked")
    assert data.label_map.names == label_map.names
    assert torch.equal(read_mask(data.pairs[0].mask, data.label_map), labels)
    listed = (tmp_path / "unpacked/labelmap.txt").read_text()
    assert ("void" in listed) == (has_void and label_map.names[0] == "background")


@pytest.mark.parametrize("name", ["../a", "/a", "", "a"])
def test_a_name_that_leads_out_of_an_archive_is_not_written(tmp_path, name):
    with pytest.raises(ValueError, match="expected names within the archive"):
        write_cvat_zip(tmp_path / "export.zip", [("a", labels_of("a")), (name, labels_of("a"))], MAP)
    assert not (tmp_path / "export.zip").exists()


def zipped(path, *members, mode=0, compress=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compress) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, compress
            archive.writestr(info, content)
    return path


def test_what_would_leave_the_folder_or_fill_the_disk_is_listed_and_nothing_is_written(tmp_path):
    names = ["../evil.png", "a/../../evil.png", "/etc/evil.png", "C:\\evil.png", "..\\evil.png", "bomb.png", "fine.png"]
    content = [b"x"] * 5 + [bytes(20_000_000), b"x"]
    path = zipped(tmp_path / "evil.zip", *zip(names, content, strict=True))
    with pytest.raises(ValueError, match="the archive has 6 fault") as caught:
        unpack(path, tmp_path / "unpacked")
    assert all(repr(name) in str(caught.value) for name in names[:5])
    assert "'bomb.png' unpacks to 20,000,000 bytes" in str(caught.value)
    assert str(path) in str(caught.value)
    assert os.listdir(tmp_path) == ["evil.zip"]


def test_links_in_an_archive_are_refused(tmp_path):
    path = zipped(tmp_path / "link.zip", ("link.png", b"/etc/passwd"), mode=stat.S_IFLNK | 0o777)
    with pytest.raises(ValueError, match="'link.png' is a link"):
        unpack(path, tmp_path / "unpacked")


def test_a_name_that_stands_twice_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = zipped(tmp_path / "twice.zip", ("a.png", b"1"), ("a.png", b"2"))
    with pytest.raises(ValueError, match=r"'a\.png' stands twice"):
        unpack(path, tmp_path / "unpacked")


@pytest.mark.parametrize("form", ["empty", "text", "zeros", "web page", "cut", "flipped", "folder", "broken link"])
def test_a_broken_archive_is_named_and_leaves_nothing(tmp_path, form):
    path = zipped(tmp_path / "a.zip", ("a.png", os.urandom(4000)), compress=zipfile.ZIP_STORED)
    assert form in FORMS
    with spoiled(path, form), pytest.raises(FileFault, match=r"a\.zip: ") as caught:
        unpack(path, tmp_path / "unpacked")
    assert "zip" in str(caught.value)
    assert os.listdir(tmp_path) == ["a.zip"]


def test_a_folder_of_other_files_is_not_filled(tmp_path):
    path = zipped(tmp_path / "a.zip", ("a.png", b"x"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("...")
    with pytest.raises(ValueError, match="`folder` to be new or empty"):
        unpack(path, tmp_path / "mine")
    with pytest.raises(ValueError, match="expected `unpack_to`"):
        open_dataset(path)


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
