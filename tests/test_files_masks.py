"""Masks in every form are read as they are meant and written as they were read; what is left open is refused."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from graphcorrect.files import (
    LabelMap,
    StoredMask,
    UnreadableFile,
    read_label_map,
    read_mask,
    read_stored_mask,
    write_label_map,
    write_mask,
)
from graphcorrect.files.masks import decode_mask, encode_like, encode_mask
from graphcorrect.files.palette import voc_colors, voc_palette

NAMES = ("background", "road", "traffic light")
COLORS = {(0, 0, 0): 0, (128, 64, 128): 1, (250, 170, 30): 2, (224, 224, 192): 255}
MAP = LabelMap(NAMES, COLORS)
LABELS = torch.tensor([[0, 1, 2, 255, 0], [2, 2, 1, 0, 255], [1, 1, 1, 2, 0]])
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
        assert picture.getpalette()[3:6] == voc_palette()[3:6]


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
            tuple(voc_colors()),
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


@pytest.mark.parametrize("name", REFUSED)
def test_what_stands_for_nothing_is_refused(tmp_path, name):
    make, label_map, words = REFUSED[name]
    make(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=words) as caught:
        read_mask(tmp_path / "mask.png", label_map)
    assert not isinstance(caught.value, UnreadableFile) or "mask.png" in str(caught.value)


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


LISTS = {
    "labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,64,128::\n"
    "traffic light:250,170,30::\nvoid:224,224,192::\n",
    "classes.csv": "name,r,g,b\nbackground,0,0,0\nroad,128,64,128\ntraffic light,250,170,30\nvoid,224,224,192\n",
    "rgba.csv": "name,r,g,b,a\nbackground,0,0,0,255\nroad,128,64,128,255\ntraffic light,250,170,30,255\n"
    "void,224,224,192,255\n",
    "classes.txt": "0 background 0 0 0\n1 road 128 64 128\n2 traffic light 250 170 30\n255 void 224 224 192\n",
    "tabs.txt": "0\tbackground\t0\t0\t0\n2\ttraffic light\t250\t170\t30\n1\troad\t128\t64\t128\n"
    "255\tvoid\t224\t224\t192\n",
    "lightly.json": '{"0": {"name": "background", "labels": [[0, 0, 0]]},'
    '"4": {"name": "road", "labels": [[128, 64, 128]]}, "7": {"name": "traffic light", "values": [[250, 170, 30]]}}',
    "lightly.yaml": "classes:\n  0: {name: background, labels: [[0, 0, 0]]}\n"
    "  1: {name: road, labels: [[128, 64, 128]]}\n  2: {name: traffic light, labels: [[250, 170, 30]]}\n"
    "  9: {name: other, labels: [[224, 224, 192]]}\n"
    "ignore_classes: [9]\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_every_list_of_colors_says_the_same(tmp_path, name):
    (tmp_path / name).write_text(LISTS[name])
    found = read_label_map(tmp_path / name)
    assert found.names == NAMES
    assert {color: label for color, label in found.colors.items() if label != 255} == {
        color: label for color, label in COLORS.items() if label != 255
    }
    assert found.colors.get((224, 224, 192), 255) == 255
    write_mask(tmp_path / "mask.png", LABELS, MAP, form="rgb")
    assert torch.equal(read_mask(tmp_path / "mask.png", found), LABELS)


@pytest.mark.parametrize("void", ["", "void\n", "255 void\n"])
def test_a_list_of_names_may_end_in_void(tmp_path, void):
    ids = "0 {}\n1 {}\n2 {}\n" if "255" in void else "{}\n{}\n{}\n"
    (tmp_path / "classes.txt").write_text(ids.format(*NAMES) + void)
    assert read_label_map(tmp_path / "classes.txt") == LabelMap(NAMES)


def test_black_is_no_class_in_cvats_list_unless_a_line_says_so(tmp_path):
    (tmp_path / "labelmap.txt").write_text("road:128,64,128::\ncar:0,0,142::\n")
    assert read_label_map(tmp_path / "labelmap.txt").colors == {(128, 64, 128): 0, (0, 0, 142): 1, (0, 0, 0): 255}
    (tmp_path / "labelmap.txt").write_text("road:::\ncar:::\n")
    assert read_label_map(tmp_path / "labelmap.txt") == LabelMap(("road", "car"))


def test_ultralytics_names_and_their_mapping(tmp_path):
    path = tmp_path / "data.yaml"
    path.write_text("names: {0: road, 1: car}\nlabel_mapping: {-1: ignore_label, 0: ignore_label, 7: 0, 26: 1}\n")
    assert read_label_map(path) == LabelMap(("road", "car"), {}, {0: 255, 7: 0, 26: 1, 1: 1})
    path.write_text("names: [road, car]\n")
    assert read_label_map(path) == LabelMap(("road", "car"))
    path.write_text("names: {0: vessel}\n")  # one class: 0 is what is not of it
    assert read_label_map(path) == LabelMap(("background", "vessel"))


def test_lightly_leaves_out_classes_and_ignores_what_it_does_not_name(tmp_path):
    path = tmp_path / "data.yaml"
    path.write_text("classes: {0: sky, 3: road, 7: {name: car, labels: [7, 8]}}\nignore_classes: [0]\n")
    found = read_label_map(path)
    assert found == LabelMap(("road", "car"), {}, {0: 255, 3: 0, 7: 1, 8: 1}, ignore_others=True)
    assert decode_mask(StoredMask(np.array([[0, 3, 7, 8, 99]], np.uint8)), found).tolist() == [[255, 0, 1, 1, 255]]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("classes.csv", "name,r,g,b\na,0,0,0\nb,0,0,0\n", "every color once"),
        ("classes.csv", "name,r,g,b\na,0,0,0\nb,0,0,256\n", "from 0 to 255"),
        ("labelmap.txt", "a:0,0,0::\nb:::\n", "a color for every class or for none, got none for b"),
        ("labelmap.txt", "", "is empty"),
        ("classes.txt", "one\n", "at least two class names"),
        ("data.yaml", "names: {0: a, 2: b}\n", "`names` from 0 to C - 1"),
        ("data.yaml", "names: 3\n", "`names` as a table"),
        ("data.yaml", "path: .\n", "`classes` as a table"),
        ("data.yaml", "[1, 2]\n", "expected a table"),
        ("data.yaml", "a: [", "expected names of classes"),
        ("data.yaml", "names: {0: a, 1: b}\nlabel_mapping: {5: 9}\n", "labels in `ids` from 0 to 1 or 255"),
        ("data.yaml", "names: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        ("data.yaml", "classes: {0: {name: a, labels: [1]}, 1: {name: b, labels: [1]}}\n", "each value for one class"),
        ("data.yaml", "classes: {0: a}\nignore_classes: [4]\n", "`ignore_classes` among `classes`"),
        ("classes.json", '{"0": {"labels": [1]}}', "has no 'name'"),
        ("classes.json", '{"0": ["a"], "1": "b"}', "names of classes as text, got list"),
        ("data.yaml", "a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]\n", "names of classes as text, got list"),
        ("classes.txt", "0 road\n999999999 car\n", "got none of [1]"),
        ("classes.json", "{", "expected names of classes"),
        ("classes.json", "<!doctype html>", "web page"),
    ],
)
def test_a_list_that_leaves_something_open_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        read_label_map(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("name", ["labelmap.txt", "classes.csv", "classes.txt"])
@pytest.mark.parametrize("colors", [COLORS, {c: n for c, n in COLORS.items() if n < 255}, {}])
def test_a_label_map_is_read_as_it_was_written(tmp_path, name, colors):
    label_map = LabelMap(("background", "digit 1", "Straße"), colors)
    write_label_map(tmp_path / name, label_map)
    assert read_label_map(tmp_path / name) == label_map


@pytest.mark.parametrize(
    ("name", "label_map", "words"),
    [
        ("classes.txt", LabelMap(("a", "b"), {}, {3: 0, 4: 1}), "without `ids`"),
        ("classes.csv", LabelMap(("a", "b"), {(1, 1, 1): 0, (2, 2, 2): 0, (3, 3, 3): 1}), "one color a class"),
        ("labelmap.txt", LabelMap(("a:b", "c"), {(1, 1, 1): 0, (2, 2, 2): 1}), "names that labelmap.txt can hold"),
        ("classes.txt", LabelMap(("a\nb", "c")), "names that classes.txt can hold"),
    ],
)
def test_what_a_list_cannot_hold_is_not_written(tmp_path, name, label_map, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        write_label_map(tmp_path / name, label_map)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (((),), "`names` of 1 to 255"),
        ((tuple(map(str, range(256))),), "`names` of 1 to 255"),
        ((("a", "a"),), "every name in `names` once"),
        ((("a",), {(0, 0, 0): 1}), "labels in `colors` from 0 to 0 or 255"),
        ((("a",), {(0, 0, 300): 0}), "three numbers from 0 to 255"),
        ((("a",), {}, {70000: 0}), "`ids` from 0 to 65535"),
    ],
)
def test_a_label_map_that_contradicts_itself_is_refused(arguments, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        LabelMap(*arguments)
