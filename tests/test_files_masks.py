"""Masks in every form are read as they are meant and written as they were read; what is left open is refused."""

import re

import numpy as np
import pytest
import torch
from colored_classes import LABELS, MAP
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from graphcorrect.files import (
    LabelMap,
    StoredMask,
    UnreadableFile,
    read_image,
    read_mask,
    read_probabilities,
    read_stored_mask,
    write_mask,
    write_probabilities,
)
from graphcorrect.files.faults import FileFault, reading
from graphcorrect.files.masks import decode_mask, encode_like, encode_mask
from graphcorrect.files.stored_masks import voc_colors

FORMS = ("palette", "grey", "grey16", "rgb", "rgba")


@pytest.mark.parametrize("ending", [".png", ".tif", ".PNG"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_as_it_was_written(tmp_path, form, ending):
    path = tmp_path / f"mask{ending}"
    write_mask(path, LABELS, MAP, form=form)
    assert torch.equal(read_mask(path, MAP), LABELS)
    assert read_mask(path, MAP).dtype == torch.int64
    assert read_stored_mask(path).form == form


@pytest.mark.parametrize(
    ("form", "mode"), [("palette", "P"), ("grey", "L"), ("grey16", "I;16"), ("rgb", "RGB"), ("rgba", "RGBA")]
)
def test_another_program_sees_the_form(tmp_path, form, mode):
    write_mask(tmp_path / "mask.png", LABELS, MAP, form=form)
    with Image.open(tmp_path / "mask.png") as picture:
        assert picture.mode == mode or mode == "I;16" and picture.mode == "I"  # as Pillow 9 opens 16 bits
        if form in ("palette", "rgb", "rgba"):
            assert picture.convert("RGB").getpixel((1, 0)) == (128, 64, 128)
        if form in ("palette", "grey", "grey16"):
            assert np.asarray(picture).tolist() == LABELS.tolist()


def test_numbers_alone_are_classes_too(tmp_path):
    write_mask(tmp_path / "mask.png", LABELS, 3)
    assert torch.equal(read_mask(tmp_path / "mask.png", 3), LABELS)
    with Image.open(tmp_path / "mask.png") as picture:
        assert tuple(picture.getpalette()[3:6]) == voc_colors()[1]


@pytest.mark.parametrize("form", FORMS)
def test_a_correction_keeps_the_form_and_all_that_it_does_not_change(tmp_path, form):
    write_mask(tmp_path / "before.png", LABELS, MAP, form=form)
    before, after = read_stored_mask(tmp_path / "before.png"), LABELS.clone()
    after[0, 0], after[1, 4] = 2, 1
    write_mask(tmp_path / "after.png", after, MAP, like=before)
    found = read_stored_mask(tmp_path / "after.png")
    assert torch.equal(read_mask(tmp_path / "after.png", MAP), after)
    assert found.form == form
    assert found.palette == before.palette
    changed = (after != LABELS).numpy()
    assert (found.values[~changed] == before.values[~changed]).all()


def test_of_several_values_of_a_class_each_pixel_keeps_its_own():
    label_map = LabelMap(("road", "car"), {}, {7: 0, 8: 0, 26: 1, 0: 255, 1: 255})
    stored = StoredMask(np.array([[7, 8, 26], [0, 1, 8]], np.uint8))
    labels = decode_mask(stored, label_map)
    assert labels.tolist() == [[0, 0, 1], [255, 255, 0]]
    labels[1, 2], labels[0, 0] = 1, 255
    assert encode_like(labels, label_map, stored).values.tolist() == [[0, 8, 26], [0, 1, 26]]


def test_a_class_that_a_palette_lacks_gets_an_entry():
    stored = StoredMask(np.array([[0, 1]], np.uint8), ((128, 64, 128), (0, 0, 0)))  # indices are not the ids
    labels = decode_mask(stored, MAP)
    assert labels.tolist() == [[1, 0]]
    after = encode_like(torch.tensor([[1, 2]]), MAP, stored)
    assert decode_mask(after, MAP).tolist() == [[1, 2]]
    assert after.palette == ((128, 64, 128), (0, 0, 0), (250, 170, 30))


def test_transparency_says_nothing_and_is_kept():
    stored = StoredMask(np.array([[[0, 0, 0, 0], [128, 64, 128, 90]]], np.uint8))
    assert decode_mask(stored, MAP).tolist() == [[0, 1]]
    after = encode_like(torch.tensor([[0, 0]]), MAP, stored)
    assert after.values.tolist() == [[[0, 0, 0, 0], [0, 0, 0, 0]]]
    assert encode_like(torch.tensor([[2, 1]]), MAP, stored).values[0, 0].tolist() == [250, 170, 30, 255]


@pytest.mark.parametrize(
    ("values", "palette", "labels"),
    [
        ([[0, 1, 2]], None, [[0, 1, 2]]),
        ([[0, 0, 0]], None, [[0, 0, 0]]),
        ([[0, 128, 255]], None, None),  # no color (128, 128, 128), no id
        (
            [[0, 1, 255]],
            voc_colors(),
            [[0, 1, 255]],
        ),  # VOC's colors, not the map's
        ([[2, 1, 0]], ((128, 64, 128), (0, 0, 0), (250, 170, 30)), [[2, 0, 1]]),  # the map's colors in another order
        ([[0, 1, 2]], ((128, 64, 128), (0, 0, 0), (9, 9, 9)), None),  # some of the map's, in another order
    ],
)
def test_ids_and_colors_in_one_channel_are_told_apart(values, palette, labels):
    stored = StoredMask(np.array(values, np.uint8), palette)
    if labels is None:
        with pytest.raises(ValueError, match=r"got \["):
            decode_mask(stored, MAP)
    else:
        assert decode_mask(stored, MAP).tolist() == labels


def test_white_on_black_is_a_class_where_the_map_says_white():
    label_map = LabelMap(("nothing", "vessel"), {(0, 0, 0): 0, (255, 255, 255): 1})
    stored = StoredMask(np.array([[0, 255]], np.uint8))
    assert decode_mask(stored, label_map).tolist() == [[0, 1]]
    assert decode_mask(stored, 2).tolist() == [[0, 255]]
    assert encode_like(torch.tensor([[1, 0]]), label_map, stored).values.tolist() == [[255, 0]]


def test_sixteen_bits_hold_large_ids_and_a_void_of_their_own(tmp_path):
    label_map = LabelMap(("road", "car"), {}, {7000: 0, 26001: 1, 26002: 1})
    Image.fromarray(np.array([[7000, 26002, 65535]], np.uint16)).save(tmp_path / "mask.png")
    labels = read_mask(tmp_path / "mask.png", label_map)
    assert labels.tolist() == [[0, 1, 255]]
    labels[0, 0] = 1
    write_mask(tmp_path / "out.png", labels, label_map, like=read_stored_mask(tmp_path / "mask.png"))
    assert np.asarray(Image.open(tmp_path / "out.png")).tolist() == [[26002, 26002, 65535]]
    with pytest.raises(ValueError, match="an id for 'road' that 'grey' can hold, got 7000"):
        write_mask(tmp_path / "out.png", torch.tensor([[0]]), label_map, form="grey")


def colors_other_than_the_maps(path):
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[1, 2], pixels[0, 0] = (1, 2, 3), (128, 64, 128)
    Image.fromarray(pixels).save(path)


def smoothed(path):
    ramp = np.arange(4 * 100).reshape(4, 100)
    Image.fromarray(np.stack([ramp // 2, ramp // 3, ramp // 5], -1).astype(np.uint8)).save(path)


REFUSED = {
    "other colors": (colors_other_than_the_maps, MAP, r"got 1 other\(s\) in 1 pixel\(s\) such as \[\(1, 2, 3\)\]"),
    "smoothed": (smoothed, MAP, "come from smoothing"),
    "colors without a map": (colors_other_than_the_maps, 3, "give a label map"),
    "ids above": (
        lambda path: Image.fromarray(np.full((2, 3), 9, np.uint8)).save(path),
        3,
        r"0 to 2 or 255, got \[9\]",
    ),
    "16 bits above": (lambda path: Image.fromarray(np.full((2, 3), 900, np.uint16)).save(path), MAP, r"got \[900\]"),
    "cut": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40)), MAP, "unreadable"),
    "empty": (lambda path: path.write_bytes(b""), MAP, "unreadable"),
    "missing": (lambda path: None, MAP, "missing"),
    "floating point": (lambda path: Image.fromarray(np.zeros((2, 3), np.float32)).save(path, "TIFF"), MAP, "got F"),
    "JPEG": (lambda path: Image.fromarray(np.zeros((2, 3), np.uint8)).save(path, "JPEG"), MAP, "JPEG changes them"),
}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "run `git lfs pull`"),
        (lambda path: path.write_text("<!DOCTYPE html><html>"), "is a web page"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("no picture"), "unreadable (cannot identify image file)"),
        (lambda path: path.mkdir(), "unreadable (is a directory)"),
    ],
)
@pytest.mark.parametrize("read", [read_image, read_stored_mask, lambda path: read_mask(path, 3)])
def test_what_is_no_picture_is_said_to_be_what_it_is(tmp_path, make, words, read):
    make(tmp_path / "a.png")
    with pytest.raises(UnreadableFile, match=re.escape(words)) as caught:
        read(tmp_path / "a.png")
    assert str(caught.value).startswith(f"{tmp_path / 'a.png'}: unreadable (")
    assert "the file)" not in str(caught.value)


def test_classes_that_are_none_are_no_fault_of_the_file(tmp_path):
    write_mask(tmp_path / "mask.png", torch.tensor([[0, 1]]), 2)
    with pytest.raises(TypeError, match="expected `classes` to be a LabelMap or an int, got list"):
        read_mask(tmp_path / "mask.png", ["road", "car"])


@pytest.mark.parametrize("name", REFUSED)
def test_what_stands_for_nothing_is_refused(tmp_path, name):
    make, label_map, words = REFUSED[name]
    make(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=words) as caught:
        read_mask(tmp_path / "mask.png", label_map)
    assert str(caught.value).startswith(f"{tmp_path / 'mask.png'}: ")
    assert str(caught.value).count("mask.png") == 1
    with pytest.raises(FileFault) as said, reading(tmp_path / "mask.png"):  # as the command has it
        read_mask(tmp_path / "mask.png", label_map)
    assert str(said.value).startswith(f"{tmp_path / 'mask.png'}: ")
    assert str(said.value).count("mask.png") == 1


@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        (torch.tensor([[3]]), {}, "`labels` in"),
        (torch.tensor([[0.0]]), {}, "`labels` to hold integer"),
        (torch.tensor([0]), {}, r"`labels` of shape \(H, W\)"),
        (torch.tensor([[0, 1]]), {"like": StoredMask(np.zeros((2, 2), np.uint8))}, "of the size of `like`"),
        (
            torch.tensor([[255]]),
            {"form": "rgb", "classes": LabelMap(("a", "b"), {(1, 1, 1): 0, (2, 2, 2): 1})},
            "ignored",
        ),
        (torch.tensor([[1]]), {"form": "rgba", "classes": LabelMap(("a", "b"), {(1, 1, 1): 0})}, "a color for 'b'"),
        (torch.tensor([[255]]), {"classes": LabelMap(("a", "b"), {}, {0: 0, 255: 1})}, "an id for ignored pixels"),
    ],
)
def test_what_a_form_cannot_hold_is_not_written(tmp_path, labels, options, words):
    options = {"classes": MAP, **options}
    with pytest.raises((ValueError, TypeError), match=words):
        write_mask(tmp_path / "mask.png", labels, **options)
    assert not (tmp_path / "mask.png").exists()


@pytest.mark.parametrize("name", ["mask.jpg", "mask.gif", "mask", "mask.mat"])
def test_a_format_that_changes_values_is_not_written(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name}: expected a name that ends in .png"):
        write_mask(tmp_path / name, LABELS, MAP)


@st.composite
def masks(draw):
    """A label map with some colors, and labels."""
    num_classes = draw(st.integers(1, 12))
    colors = draw(
        st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=num_classes + 1, max_size=num_classes + 4, unique=True)
    )
    meanings = [*range(num_classes), 255, *draw(st.lists(st.integers(0, num_classes - 1), min_size=3, max_size=3))]
    label_map = LabelMap(tuple(map(str, range(num_classes))), dict(zip(colors, meanings, strict=False)))
    height, width = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    label = st.sampled_from([*range(num_classes), 255])
    one = st.lists(st.lists(label, min_size=width, max_size=width), min_size=height, max_size=height)
    return label_map, torch.tensor(draw(one)), torch.tensor(draw(one))


@given(masks(), st.sampled_from(FORMS))
@settings(max_examples=150, deadline=None)
def test_labels_come_back_from_every_form_and_from_its_correction(drawn, form):
    label_map, labels, corrected = drawn
    stored = encode_mask(labels, label_map, form)
    assert torch.equal(decode_mask(stored, label_map), labels)
    again = encode_like(corrected, label_map, stored)
    assert torch.equal(decode_mask(again, label_map), corrected)
    assert again.form == stored.form


@pytest.mark.parametrize("labels", [[[0, 1, 2]], [[0, 0, 0]], [[0, 0, 255]]])
def test_black_alone_is_an_id_where_the_palette_is_another_one(tmp_path, labels):
    """Else files of one data set, some with the other classes and some without, would be read by two rules."""
    label_map = LabelMap(("plane", "ground", "bicycle"), {(10, 10, 128): 0, (0, 0, 0): 1, (10, 128, 0): 2})
    write_mask(tmp_path / "a.png", torch.tensor(labels), 3)
    assert read_mask(tmp_path / "a.png", label_map).tolist() == labels
    write_mask(tmp_path / "b.png", torch.tensor(labels), label_map)
    assert read_mask(tmp_path / "b.png", label_map).tolist() == labels


def test_paths_may_be_text(tmp_path):
    path = str(tmp_path / "a.png")
    write_mask(path, LABELS, MAP)
    assert torch.equal(read_mask(path, MAP), LABELS)
    path, probabilities = str(tmp_path / "a.npy"), torch.full((2, 4, 6), 0.5)
    write_probabilities(path, probabilities)
    assert torch.equal(read_probabilities(path), probabilities)


@pytest.mark.parametrize("form", ["pallete", "", "RGB"])
def test_a_form_that_there_is_not_is_refused(tmp_path, form):
    with pytest.raises(ValueError, match="expected `form` to be one of 'palette', 'grey', 'grey16', 'rgb', 'rgba'"):
        write_mask(tmp_path / "mask.png", torch.tensor([[0, 1]]), 2, form=form)
    assert not (tmp_path / "mask.png").exists()


def test_a_form_beside_the_mask_that_gives_it_is_refused(tmp_path):
    write_mask(tmp_path / "before.png", torch.tensor([[0, 1]]), 2, form="grey")
    like = read_stored_mask(tmp_path / "before.png")
    for form in ("grey", "palette"):
        with pytest.raises(ValueError, match="expected no `form` with `like`"):
            write_mask(tmp_path / "after.png", torch.tensor([[1, 1]]), 2, form=form, like=like)
    assert not (tmp_path / "after.png").exists()
