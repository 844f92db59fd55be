"""Zip archives: read as the folder inside and written for CVAT; what is broken or would do harm is refused whole."""

import io
import os
import re
import stat
import unicodedata
import zipfile

import pytest
import torch
from broken_files import FORMS, spoiled
from dataset_layouts import COLORED, MAP, NAMES, flat, labels_of, splits_around, splits_inside, voc
from PIL import Image

from graphcorrect.files import FileFault, LabelMap, check_pairs, open_dataset, read_mask, unpack, write_cvat_zip
from graphcorrect.files.archives import with_one_color_each


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


@pytest.mark.parametrize("label_map", [MAP, COLORED, LabelMap(("road", "car", "sky"), {(9, 9, 9): 2})])
@pytest.mark.parametrize("has_void", [False, True])
def test_an_archive_for_cvat_is_read_as_it_was_written(tmp_path, label_map, has_void):
    """Black is what CVAT calls background: where no class is black, one of that name is added behind them."""
    labels = labels_of("a").masked_fill(labels_of("a") == 255, 255 if has_void else 0)
    write_cvat_zip(tmp_path / "export.zip", [("a", labels)], label_map)
    data = open_dataset(tmp_path / "export.zip", unpack_to=tmp_path / "unpacked")
    found = read_mask(data.pairs[0].mask, data.label_map)
    listed = (tmp_path / "unpacked/labelmap.txt").read_text().splitlines()
    if label_map.names[0] == "background":
        assert data.label_map.names == label_map.names
        assert found.equal(labels)
        assert any(line.startswith("void:") for line in listed) == has_void
    else:
        assert data.label_map.names == (*label_map.names, "background")
        assert found.equal(labels.masked_fill(labels == 255, 3))
        assert listed[-1] == "background:0,0,0::"
    own = with_one_color_each(label_map)  # by which the labels are what they were, also where there is none
    assert read_mask(data.pairs[0].mask, own).equal(labels)


@pytest.mark.parametrize("names", [("car", "background"), ("road", "car", "Background"), ("car", "void"), ("0", "1")])
@pytest.mark.parametrize("value", [0, 255])
def test_a_class_of_a_special_name_keeps_its_label(tmp_path, names, value):
    labels = torch.tensor([[0, 1, 1], [1, 0, value]])
    write_cvat_zip(tmp_path / "export.zip", [("a", labels)], LabelMap(names))
    data = open_dataset(tmp_path / "export.zip", unpack_to=tmp_path / "unpacked")
    has_background = names[-1].lower() == "background"
    assert data.label_map.names == (names if has_background else (*names, "background"))
    expected = labels if has_background else labels.masked_fill(labels == 255, 2)
    assert read_mask(data.pairs[0].mask, data.label_map).equal(expected)
    if has_background:  # in CVAT's own color
        assert data.label_map.color_of(len(names) - 1) == (0, 0, 0)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("road: paved", "car"), "got 'road: paved' ("),
        (("car", "#1", "bus"), "got '#1' ("),
        (("car", "a\nb", "bus"), r"got 'a\nb' ("),
        (("car", " bus"), "got ' bus' ("),
        (("a", "b", "A"), "expected every class name once, got A, a more than once"),
        (("background", "car", "void"), "got 'void' ("),
    ],
)
def test_names_that_cvats_list_would_not_give_back_are_refused_before_any_work(tmp_path, names, words):
    masks = (pytest.fail("is read") for _ in range(1))
    with pytest.raises(ValueError, match=re.escape(words)):
        write_cvat_zip(tmp_path / "export.zip", masks, LabelMap(names))
    assert not (tmp_path / "export.zip").exists()


def test_a_class_called_void_and_pixels_without_a_class_do_not_mix(tmp_path):
    label_map = LabelMap(("background", "Void", "car"))
    write_cvat_zip(tmp_path / "export.zip", [("a", labels_of("a").clamp(max=2))], label_map)
    data = open_dataset(tmp_path / "export.zip", unpack_to=tmp_path / "unpacked")
    assert data.label_map.names == label_map.names
    with pytest.raises(ValueError, match="expected names beside void, .* got 'Void'"):
        write_cvat_zip(tmp_path / "other.zip", [("a", labels_of("a"))], label_map)
    assert not (tmp_path / "other.zip").exists()


def test_as_many_classes_as_there_can_be_leave_no_place_for_a_background(tmp_path):
    label_map = LabelMap(tuple(f"c{number}" for number in range(255)))
    labels = torch.arange(256).reshape(2, 128)
    write_cvat_zip(tmp_path / "export.zip", [("a", labels)], label_map)
    data = open_dataset(tmp_path / "export.zip", unpack_to=tmp_path / "unpacked")
    assert data.label_map.names == label_map.names
    assert read_mask(data.pairs[0].mask, data.label_map).equal(labels)


def test_what_is_read_of_a_list_with_void_alone_is_written_where_there_is_void(tmp_path):
    label_map = LabelMap(("background", "car", "ignore"))
    write_cvat_zip(tmp_path / "export.zip", [("a", labels_of("a"))], label_map)
    data = open_dataset(tmp_path / "export.zip", unpack_to=tmp_path / "unpacked")
    assert data.label_map.names == label_map.names
    assert read_mask(data.pairs[0].mask, data.label_map).equal(labels_of("a"))
    with pytest.raises(ValueError, match="got 'ignore'"):
        write_cvat_zip(tmp_path / "other.zip", [("a", labels_of("a").clamp(max=2))], label_map)
    assert not (tmp_path / "other.zip").exists()


@pytest.mark.parametrize("name", ["a, b", "a;b", "a.jpg", "city/a\u0308", "7"])
def test_a_mask_of_any_name_is_found_again(tmp_path, name):
    write_cvat_zip(tmp_path / "export.zip", [(name, labels_of("a"))], MAP)
    data = open_dataset(tmp_path / "export.zip", unpack_to=tmp_path / "unpacked")
    assert [pair.name for pair in data.splits["default"]] == [unicodedata.normalize("NFC", name)]
    assert read_mask(data.pairs[0].mask, data.label_map).equal(labels_of("a"))


@pytest.mark.parametrize("name", ["#a", "a\nb", " a", ".a", "city/.a"])
def test_a_name_that_nobody_would_find_again_is_not_written(tmp_path, name):
    with pytest.raises(ValueError, match="expected names that a list and a folder of files show"):
        write_cvat_zip(tmp_path / "export.zip", [(name, labels_of("a"))], MAP)
    assert not (tmp_path / "export.zip").exists()


@pytest.mark.parametrize("name", ["../a", "/a", "", "a", "./a"])
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
