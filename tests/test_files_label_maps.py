"""Lists of classes and their colors, as people's tools write them, are read alike; what is left open is refused."""

import re

import numpy as np
import pytest
import torch
from colored_classes import COLORS, LABELS, MAP, NAMES

from graphcorrect.files import LabelMap, StoredMask, read_label_map, read_mask, write_label_map, write_mask
from graphcorrect.files.masks import decode_mask

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


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("hex.csv", "name,color\nsky,#ff0000\nwall,#00ff0a\n"),
        ("hex.csv", "color,name\n#ff0000,sky\n#00ff0a,wall\n"),
        ("hex.csv", "id;label;colour;note\n1;wall;#00ff0a;\n0;sky;#ff0000;blue\n"),
        ("hex.txt", "sky #ff0000\nwall #00ff0a\n"),
        ("hex.txt", "0,sky,#ff0000\n1,wall,#00ff0a\n"),
        ("one_column.csv", 'name,color\nsky,"255,0,0"\nwall,(0 255 10)\n'),
        ("loose.csv", "name,color\nsky,255,0,0\nwall,0,255,10\n"),
        ("alpha.csv", "name,color\nsky,#ff0000ff\nwall,#00ff0aff\n"),
        ("which.csv", "label,name,r,g,b\n1,wall,0,255,10\n0,sky,255,0,0\n"),
        ("header.txt", "label:color_rgb:parts:actions\nsky:255, 0, 0::\nwall:0,255,10::\nvoid:0,0,0::\n"),
    ],
)
def test_a_header_names_columns_and_no_class(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    found = read_label_map(tmp_path / name)
    assert found.names[:2] == ("sky", "wall")
    assert {color: label for color, label in found.colors.items() if label < 2} == {(255, 0, 0): 0, (0, 255, 10): 1}


def test_a_table_of_names_alone_has_a_header_too(tmp_path):
    (tmp_path / "classes.csv").write_text("name\nsky\nwall, brick\n")
    assert read_label_map(tmp_path / "classes.csv").names == ("sky", "wall, brick")
    (tmp_path / "classes.csv").write_text("id,name\n0,sky\n1,wall, brick\nvoid\n")
    assert read_label_map(tmp_path / "classes.csv").names == ("sky", "wall, brick")
    (tmp_path / "classes.txt").write_text("class name\nsky\n")  # which may be a class
    assert read_label_map(tmp_path / "classes.txt").names == ("class name", "sky")
    (tmp_path / "classes.txt").write_text("label id\nsky\n")
    assert read_label_map(tmp_path / "classes.txt").names == ("label id", "sky")
    (tmp_path / "classes.txt").write_text("label id\nwall 1\nsky 0\n")
    assert read_label_map(tmp_path / "classes.txt").names == ("sky", "wall")


def test_black_is_no_class_in_cvats_list_unless_a_line_says_so(tmp_path):
    (tmp_path / "labelmap.txt").write_text("road:128,64,128::\ncar:0,0,142::\n")
    assert read_label_map(tmp_path / "labelmap.txt").colors == {(128, 64, 128): 0, (0, 0, 142): 1, (0, 0, 0): 255}
    (tmp_path / "labelmap.txt").write_text("road:::\ncar:::\n")
    assert read_label_map(tmp_path / "labelmap.txt") == LabelMap(("road", "car"))


def test_classes_of_cvats_list_may_be_called_by_numbers(tmp_path):
    label_map = LabelMap(("1", "0"), {(0, 0, 0): 0, (9, 9, 9): 1})
    write_label_map(tmp_path / "labelmap.txt", label_map)
    assert read_label_map(tmp_path / "labelmap.txt") == label_map


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
        ("classes.csv", "name,r,g,b\nroad,0.5,1.0,0\ncar,4,5,6\n", "line 2: expected a color of three whole numbers"),
        ("classes.csv", "# ours\nname,r,g,b\nroad,4,5,6\ncar,4,5\n", "line 4: expected 4 columns (name, r, g, b)"),
        ("classes.csv", "name,color\nroad,red\ncar,blue\n", "line 2: expected a color"),
        ("classes.csv", "name;id\nroad;0\ncar;x\n", "line 3: expected a whole number as id, got 'car;x'"),
        ("classes.csv", "id,r,g,b\n0,1,2,3\n1,2,3,4\n", "a column of names"),
        ("classes.csv", "name,color\n", "at least two class names"),
        ("classes.csv", "road,0.5,1.0,0\ncar,4,5,6\n", "line 1: expected a name and a color"),
        ("labelmap.txt", "road:128,64::\ncar:0,0,142::\n", "line 1: expected CVAT's `name:red,green,blue::`"),
        ("labelmap.txt", "car:0,0,142::\nroad:128,64,128\n", "line 2: expected CVAT's"),
        ("labelmap.txt", "a:-1,0,0::", "line 1: expected CVAT's"),
        ("labelmap.txt", "a:1,0,0::", "at least two class names, one a line, got ['a']"),
        ("labelmap.txt", "a:#ff0000::\nb:#00ff00::\n", "line 1: expected CVAT's"),
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
        (
            "labelmap.txt",
            LabelMap(("c", "a:b", "void"), {(1, 1, 1): 1, (2, 2, 2): 0, (3, 3, 3): 2}),
            "got 'a:b', 'void'",
        ),
        ("classes.csv", LabelMap(("road",)), "names that classes.csv can hold, got others"),
        ("data.yaml", LabelMap(("a", "b")), "write_dataset_yaml writes YAML"),
        ("labelmap.xyz", LabelMap(("a", "b")), "a list of classes, .txt or .csv, got labelmap.xyz"),
        ("labelmap", LabelMap(("a", "b")), "a list of classes, .txt or .csv, got labelmap"),
        ("data.JSON", LabelMap(("a", "b")), "a list of classes, .txt or .csv, got data.JSON"),
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
