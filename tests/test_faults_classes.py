"""Class names are read to the same classes however a file writes them; what is left open is refused with its name."""

import re

import pytest

from graphcorrect.files import class_names

NAMES = ["ground", "traffic light", "Straße"]
FORMS = {
    "names": "ground\ntraffic light\nStraße",
    "a final void": "ground\ntraffic light\nStraße\nvoid\n",
    "ids": "0 ground\n1 traffic light\n2 Straße\n",
    "ids and void": "0 ground\n1 traffic light\n2 Straße\n255 void\n",
    "void without an id": "0 ground\n1 traffic light\n2 Straße\nvoid\n",
    "void as -1": "-1: void\n0: ground\n1: traffic light\n2: Straße",
    "another order": "2 Straße\n0 ground\n1 traffic light",
    "tabs": "0\tground\n1\ttraffic light\n2\tStraße\n",
    "commas": "0,ground\n1,traffic light\n2,Straße\n255,void",
    "a header": "id,name\n0,ground\n1,traffic light\n2,Straße\n",
    "colons": "0: ground\n1: traffic light\n2: Straße\n",
    "colons behind": "ground: 0\ntraffic light: 1\nStraße: 2\n",
    "semicolons": "0;ground\n1;traffic light\n2;Straße",
    "equals": "0 = ground\n1 = traffic light\n2 = Straße",
    "dots": "0. ground\n1. traffic light\n2. Straße",
    "ids behind": "ground 0\ntraffic light 1\nStraße 2",
    "names and colors": "ground 0 0 0\ntraffic light 250 170 30\nStraße 128 64 128",
    "colors and names": "0 0 0\tground\n250 170 30\ttraffic light\n128 64 128\tStraße",
    "a table": "name,r,g,b\nground,0,0,0\ntraffic light,250,170,30\nStraße,128,64,128",
    "ids and colors": "0,ground,0,0,0\n1,traffic light,250,170,30\n2,Straße,128,64,128",
    "a mark": "\ufeffground\ntraffic light\nStraße",
    "a mark and ids": "\ufeff0 ground\n1 traffic light\n2 Straße",
    "carriage returns": "ground\r\ntraffic light\r\nStraße\r\n",
    "blanks and comments": "# classes\n\n ground \n\ttraffic light\n\nStraße\n\n",
    "one line": "ground, traffic light, Straße",
    "quotes": '0,"ground"\n1,"traffic light"\n2,"Straße"',
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_every_form_names_the_same_classes(tmp_path, form, encoding):
    (tmp_path / "classes.txt").write_bytes(FORMS[form].encode(encoding))
    names, notes = class_names.read_class_names(tmp_path / "classes.txt")
    assert names == NAMES
    assert len(notes) == (form == "a final void")


@pytest.mark.parametrize(
    "names",
    [
        ["background", "digit 0", "digit 1"],
        ["digit 0", "digit 1", "digit 2"],
        ["route 66", "3d printer", "hen"],
        ["0", "1", "2"],
        ["wall, brick", "door", "sky"],
        ["void", "road", "sky"],  # the masks' id 0
    ],
)
def test_numbers_and_commas_within_names_stay(tmp_path, names):
    (tmp_path / "classes.txt").write_text("\n".join(names))
    assert class_names.read_class_names(tmp_path / "classes.txt")[0] == names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 ground\n2 sheep", "expected each id from 0 to C - 1 once (255: ignored), got none of [0]"),
        ("0 ground\n2 sheep", "got none of [1]"),
        ("0 ground\n1 sheep\n1 goat", "got [1] more than once"),
        ("0 ground\n1 sheep\ngoat", "expected an id on every line or on none, got lines without: ['goat']"),
        ("0\tground\t7\n1\tsheep\t8", "two numbers a line"),
        ("ground\nsheep\nsheep", "every class name once, got sheep more than once"),
        ("", "at least two class names"),
        ("ground", "at least two class names"),
        ("\n".join(map("class {}".format, range(256))), "at most 255 classes"),
        ("gro\x00und\nsheep\x01", "expected a text file"),
    ],
)
def test_what_is_left_open_is_refused(tmp_path, content, message):
    path = tmp_path / "classes.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        class_names.read_class_names(path)
    assert str(path) in str(caught.value)


def test_an_encoding_that_had_to_be_guessed_is_said(tmp_path):
    (tmp_path / "classes.txt").write_bytes("Boden\nStraße".encode("cp1252"))
    names, notes = class_names.read_class_names(tmp_path / "classes.txt")
    assert names == ["Boden", "Straße"]
    assert "is not UTF-8" in notes[0]
    assert "Straße" in notes[0]
