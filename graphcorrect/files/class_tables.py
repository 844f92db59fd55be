"""Classes out of a table whose first line names its columns; lines that are broken are refused with their number.

name,color          id;label;red;green;blue          # label:color_rgb:parts:actions
road,#804080        0;road;128;64;128                road:128,64,128::
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import NamedTuple

IGNORED_IDS = (255, -1)
IGNORED_NAMES = {"void", "ignore", "ignored", "unlabeled", "unlabelled", "dontcare", "don't care"}
QUOTES = " \"'"
TITLES = {  # what a column may be called, without marks between words
    "name": "name classname labelname categoryname names classes labels class label category",
    "id": "id index classid labelid categoryid trainid number idx",
    "r": "r red",
    "g": "g green",
    "b": "b blue",
    "a": "a alpha",
    "color": "color colour rgb rgba colorrgb colourrgb hex hexcolor colorhex hexcode",
}
KIND_OF = {title: kind for kind, titles in TITLES.items() for title in titles.split()}
NAMED = "name"  # of several columns of names the one whose title has this
WHOLE = re.compile(r"[+-]?\d{1,9}\Z")
HEX = re.compile(r"#[0-9a-fA-F]{6}(?:[0-9a-fA-F]{2})?\Z")  # the last two are an alpha
COMMENTED_COLOR = re.compile(r"#[0-9a-fA-F]{6}(?:[0-9a-fA-F]{2})?[\"']?\s*[,;\t|]")  # begins a line that is no comment
REAL = r"[+-]?\d+(?:\.\d*)?"
CVAT = re.compile(r"(?P<name>[^:]*):\s*(?P<color>\d{1,9}\s*,\s*\d{1,9}\s*,\s*\d{1,9}|)\s*:[^:]*:[^:]*\Z")
# `road:128,64::`, `road:#804080::`, `road:128,64,128`: a color in CVAT's place that is none
BROKEN_CVAT = re.compile(rf"[^:]*:\s*(?:[\d\s.,+-]*:[^:]*:[^:]*|[^:]*::|{REAL}(?:\s*,\s*{REAL})+\s*(?::.*)?)\Z")
BROKEN_COLOR = re.compile(rf".*(?:[,;\t|]\s*{REAL}\s*){{3,}}\Z")  # `road,0.5,1.0,0`
CVAT_HEADER = "label:color_rgb"

Color = tuple[int, int, int]
Line = tuple[int, str]  # a line and its number in the file


class Entry(NamedTuple):
    """A class as its line has it; `number` and `color` where there is one."""

    name: str
    number: int | None = None
    color: Color | None = None

    @property
    def is_ignored(self) -> bool:
        """Whether the line stands for ignored pixels: by its id where it has one, else by its name."""
        return self.name.lower() in IGNORED_NAMES if self.number is None else self.number in IGNORED_IDS


def numbered_lines(text: str) -> list[Line]:
    """Lines and their numbers, without blanks around them, empty ones and comments left out."""
    lines = ((number, line.strip()) for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1))
    return [(n, line) for n, line in lines if line and (line[0] != "#" or COMMENTED_COLOR.match(line))]


def refuse_broken(lines: list[Line], path: Path) -> None:
    """Refuse what is no list of names, though nothing else could be made of it: names beside colors that are none."""
    is_cvat = any(CVAT.match(line) or BROKEN_CVAT.match(line) for _, line in lines)
    for number, line in lines:
        if is_cvat and not CVAT.match(line):
            raise ValueError(f"{path}: line {number}: expected CVAT's `name:red,green,blue::`, got {line!r}")
        if BROKEN_COLOR.match(line):
            raise ValueError(f"{path}: line {number}: expected a name and a color from 0 to 255, got {line!r}")


def of_table(lines: list[Line], path: Path) -> list[Entry] | None:
    """An entry for every line behind a header; None where the first line is none."""
    for separator in (",", ";", "\t", "|", None):
        titles = [re.sub(r"[\W_]", "", cell.lower()) for cell in _cells(lines[0][1], separator)] if lines else []
        if _is_header([KIND_OF.get(title) for title in titles], separator, path):
            # words with blanks between them may be a name, unless a line below has an id or a color
            below = [cell for _, line in lines[1:] for cell in _cells(line, separator)]
            if separator or any(WHOLE.match(cell) or HEX.match(cell) for cell in below):
                return _entries(titles, lines[1:], separator, path)
    return None


def _is_header(kinds: list[str | None], separator: str | None, path: Path) -> bool:
    if separator is None and None in kinds:
        return False
    if len(kinds) == 1:
        return kinds == ["name"] and separator == "," and path.suffix.lower() == ".csv"
    has_color = "color" in kinds or {"r", "g", "b"} <= set(kinds)
    return (
        "id" in kinds
        and ("name" in kinds or has_color)
        or "name" in kinds
        and (has_color or kinds.count("name") > 1 and separator is not None)
    )


def _cells(line: str, separator: str | None) -> list[str]:
    found = line.split() if separator is None else next(csv.reader([line], delimiter=separator, skipinitialspace=True))
    return [cell.strip(QUOTES) for cell in found]


def _entries(titles: list[str], lines: list[Line], separator: str | None, path: Path) -> list[Entry]:
    kinds = [KIND_OF.get(title, "") for title in titles]
    rows = [_fitted(_cells(line, separator), kinds, separator) for _, line in lines]
    names = [column for column, kind in enumerate(kinds) if kind == "name"]
    ids = [column for column, kind in enumerate(kinds) if kind == "id"]
    if not ids:  # `label,name` of 0,road and `class,r,g,b` of 0,128,64,128
        full = [row for row in rows if len(row) == len(kinds)]
        ids = [column for column in names if full and all(WHOLE.match(row[column]) for row in full)]
        ids = [column for column in ids if NAMED not in titles[column]][:1]
        names = [column for column in names if column not in ids] or ids
    names.sort(key=lambda column: NAMED not in titles[column])
    if not names or len(ids) > 1:
        wanted = "a column of names" if not names else "one column of ids"
        raise ValueError(f"{path}: expected a table with {wanted}, got the columns {', '.join(titles)}")
    found = []
    for (number, line), row in zip(lines, rows, strict=True):
        if len(row) == 1 and row[0].lower() in IGNORED_NAMES:
            found.append(Entry(row[0]))
            continue
        try:
            if len(row) != len(kinds):
                raise ValueError(f"expected {len(kinds)} columns ({', '.join(titles)})")
            if not row[names[0]]:
                raise ValueError("expected a name")
            if ids and not WHOLE.match(row[ids[0]]):
                raise ValueError(f"expected a whole number as {titles[ids[0]]}")
            found.append(Entry(row[names[0]], int(row[ids[0]]) if ids else None, _color_of(row, kinds)))
        except ValueError as error:
            raise ValueError(f"{path}: line {number}: {error}, got {line!r}") from error
    return found


def _fitted(row: list[str], kinds: list[str], separator: str | None) -> list[str]:
    """Without empty cells at the end; more cells than columns are parts of a color or of a name (`wall, brick`)."""
    while len(row) > len(kinds) and not row[-1]:
        row = row[:-1]
    more = len(row) - len(kinds)
    between = " " if separator is None else ", " if separator == "," else separator
    for kind in ("color", "name") if more > 0 else ():
        if kinds.count(kind) == 1:
            first = kinds.index(kind)
            parts = row[first : first + more + 1]
            if kind == "name" or more in (2, 3) and all(map(WHOLE.match, parts)):
                return [*row[:first], between.join(parts), *row[first + more + 1 :]]
    return row


def _color_of(row: list[str], kinds: list[str]) -> Color | None:
    """The color of a line, as three numbers or as #rrggbb; an alpha says nothing."""
    if "color" in kinds:
        said = row[kinds.index("color")]
        if HEX.match(said):
            return int(said[1:3], 16), int(said[3:5], 16), int(said[5:7], 16)
        parts = re.split(r"[\s,;]+", re.sub(r"^(?:rgba?)?[(\[]\s*|\s*[)\]]$", "", said)) if said else []
    elif {"r", "g", "b"} <= set(kinds):
        parts = [row[kinds.index(kind)] for kind in "rgb"]
    else:
        return None
    if not any(parts):
        return None
    if len(parts) not in (3, 4) or not all(map(WHOLE.match, parts)):
        raise ValueError("expected a color of three whole numbers from 0 to 255, or as #rrggbb")
    return int(parts[0]), int(parts[1]), int(parts[2])
