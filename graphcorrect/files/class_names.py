"""Names of classes out of a file: a name a line, alone or with its id or color or both, whatever separates them.

background          0 background        background,0,0,0,0          # label:color_rgb:parts:actions
sheep               1 sheep             sheep,1,128,64,0            background:0,0,0::
void                255 void            void,255,224,224,192        sheep:128,64,0::
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from graphcorrect.files.class_tables import (
    CVAT,
    CVAT_HEADER,
    IGNORED_IDS,
    IGNORED_NAMES,
    QUOTES,
    Color,
    Entry,
    Line,
    numbered_lines,
    of_table,
    refuse_broken,
)
from graphcorrect.files.text import encoding_of, read_text, repeated

MOST_CLASSES = 255  # ids are of 8 bits, and 255 is the ignored one
NUMBER = re.compile(r"[+-]?\d{1,9}[.)]?\Z")
SEPARATORS = (",", ";", "\t", ":", "=", "|", None)  # None: blanks
HEX_CELL = re.compile(r"([,;\t|]|\s)\s*[\"']?#([0-9a-fA-F]{6})[\"']?\s*\Z")  # `road,#804080`


class Row(NamedTuple):
    """A line: its name, and the numbers before and behind it."""

    before: list[int]
    name: str
    behind: list[int]


class Entries(NamedTuple):
    """The lines of a file."""

    classes: list[Entry]  # in the order of their ids
    ignored: list[Entry]  # that stand for ignored pixels
    notes: list[str]  # what a person should know of how the file was read
    is_cvat: bool  # whether it is CVAT's `labelmap.txt`, where black stands for no class unless a line says otherwise


def read_class_names(path: Path) -> tuple[list[str], list[str]]:
    """C names in the order of their ids, and notes: what a person should know of how the file was read."""
    found = read_entries(path)
    return [entry.name for entry in found.classes], found.notes


def read_entries(path: Path) -> Entries:
    """The same with ids and colors; what leaves it open which class an id stands for is refused."""
    found = entries_of(read_text(path), path)
    if encoding_of(Path(path).read_bytes()) == "cp1252":
        strange = ", ".join(entry.name for entry in found.classes if not entry.name.isascii())
        found.notes.insert(0, f"{path}: is not UTF-8; read in Windows' encoding: {strange}")
    return found


def entries_of(text: str, path: Path) -> Entries:
    """The same of a text that stands in `path`, or shall."""
    lines = [(number, unicodedata.normalize("NFC", line)) for number, line in numbered_lines(text)]
    if lines and lines[0][1].lower().startswith(CVAT_HEADER):
        lines = lines[1:]
    of_cvat = _of_cvat([line for _, line in lines])  # first: a class may be called 1 there
    found = of_cvat or of_table(lines, path)
    if found is None:
        found = _without_header(lines, path)
    ignored, notes = [], []
    if any(entry.number is not None for entry in found):
        ignored = [entry for entry in found if entry.is_ignored]
        classes = _by_id([entry for entry in found if not entry.is_ignored], path)
    else:
        classes = [*found]
        if len(classes) > 2 and classes[-1].is_ignored:
            last = classes[-1].name
            notes.append(f"{path}: {last!r}, the last line, is taken for ignored pixels (255), not for a class")
            ignored = [classes.pop()]
    _check(classes, ignored, path)
    notes += [
        f"{path}: {name!r} is class {number}, to be learned and scored; what is to be ignored is 255 in the masks"
        for number, (name, _, _) in enumerate(classes)
        if name.lower() in IGNORED_NAMES
    ]
    return Entries(classes, ignored, notes, bool(of_cvat))


def _without_header(numbered: list[Line], path: Path) -> list[Entry]:
    """Entries of lines that are alike, whatever separates ids, names and colors; of names alone where nothing else is.

    A line without an id beside others that have one is there if it stands for ignored pixels.
    """
    lines = [line for _, line in numbered]
    if len(lines) == 1:
        refuse_broken(numbered, path)
        lines = [part.strip() for part in re.split(r"[,;\t]", lines[0]) if part.strip()]
    if all(map(HEX_CELL.search, lines)):
        lines = [HEX_CELL.sub(_numbers_of, line) for line in lines]
    found = _with_ids(lines, path)
    if found is None and (found := _with_ids(_but_ignored(lines), path)):
        found += [Entry(line) for line in lines if line.lower() in IGNORED_NAMES]
    found = found or _with_colors(lines)
    if found is None:
        refuse_broken(numbered, path)
    return found or [Entry(line.strip(QUOTES + ",;")) for line in lines]


def _numbers_of(cell: re.Match[str]) -> str:
    """The color #rrggbb at the end of a line as three numbers between separators of the line."""
    return "".join(f"{cell[1]}{part}" for part in bytes.fromhex(cell[2]))


def _with_ids(lines: list[str], path: Path) -> list[Entry] | None:
    """An entry with its id for every line, or None where names have no ids."""
    for separator, rows, shapes in _tables(lines):
        if not all(row.name for row in rows):
            continue
        first = {len(row.before) for row in rows}
        if separator is not None and shapes == {(1, 1)}:
            raise ValueError(f"{path}: expected id and name, got two numbers a line: {lines[-1]!r}; which is the id?")
        if first in ({1}, {4}) and (separator is None or len(shapes) == 1 and shapes <= {(1, 0), (1, 3), (4, 0)}):
            if all(len(row.behind) == 3 for row in rows):
                return [Entry(row.name, row.before[0], _color(row.behind)) for row in rows]
            whole = [" ".join([row.name, *map(str, row.behind)]) for row in rows]  # numbers behind are part of a name
            return [Entry(name, row.before[0], _color(row.before[1:])) for name, row in zip(whole, rows, strict=True)]
        # `sheep 1` has an id, `digit 1` beside `digit 2` has none
        if shapes in ({(0, 1)}, {(0, 4)}) and len({row.name for row in rows}) == len(rows):
            numbers = sorted(row.behind[0] for row in rows if row.behind[0] not in IGNORED_IDS)
            if shapes == {(0, 4)} and numbers != list(range(len(numbers))):
                return None  # a color with its alpha
            return [Entry(row.name, row.behind[0], _color(row.behind[1:])) for row in rows]
    if lines != _but_ignored(lines):
        return None
    rows = [_row(line, None) for line in lines]
    with_ids = [row.before[0] for row in rows if row.before and row.name]
    without = [line for line, row in zip(lines, rows, strict=True) if not (row.before and row.name)]
    if without and len(set(with_ids)) >= max(2, len(rows) / 2):
        raise ValueError(f"{path}: expected an id on every line or on none, got lines without: {without[:5]}")
    return None


def _tables(lines: list[str]) -> Iterator[tuple[str | None, list[Row], set[tuple[int, int]]]]:
    """Lines taken apart at each separator: without a header, and how many numbers are before and behind names."""
    for separator in SEPARATORS:
        rows = [_row(line, separator) for line in lines]
        if len(rows) > 2 and not rows[0].before and not rows[0].behind:
            rows = rows[1:]  # a header: `id,name`
        if rows:
            yield separator, rows, {(len(row.before), len(row.behind)) for row in rows}


def _color(numbers: list[int]) -> Color | None:
    return (numbers[0], numbers[1], numbers[2]) if len(numbers) == 3 else None


def _but_ignored(lines: list[str]) -> list[str]:
    """Without the names that stand for ignored pixels."""
    return [line for line in lines if line.lower() not in IGNORED_NAMES]


def _with_colors(lines: list[str]) -> list[Entry] | None:
    """Names that stand beside three numbers each, or four, of which the last is an alpha."""
    for _, rows, shapes in _tables(lines):
        if shapes in ({(3, 0)}, {(0, 3)}, {(0, 4)}):
            return [Entry(row.name, None, _color((row.before or row.behind)[:3])) for row in rows]
    return None


def _of_cvat(lines: list[str]) -> list[Entry] | None:
    """The lines of CVAT's `labelmap.txt`: label, color, parts and actions between colons."""
    found = [CVAT.match(line) for line in lines]
    entries = [
        Entry(each["name"].strip(), None, _color([int(part) for part in each["color"].split(",") if part]))
        for each in found
        if each is not None
    ]
    return entries if len(entries) == len(lines) else None


def _row(line: str, separator: str | None) -> Row:
    parts = [part for part in (part.strip(QUOTES) for part in line.split(separator)) if part]
    before = list(takewhile(NUMBER.match, parts))
    parts = parts[len(before) :]
    behind = list(takewhile(NUMBER.match, reversed(parts)))[::-1]
    between = " " if separator is None else ", " if separator == "," else separator
    name = between.join(parts[: len(parts) - len(behind)]).removeprefix("- ").strip()
    return Row([int(part.rstrip(".)")) for part in before], name, [int(part.rstrip(".)")) for part in behind])


def _by_id(found: list[Entry], path: Path) -> list[Entry]:
    numbers = [entry.number for entry in found if entry.number is not None]
    if sorted(numbers) != list(range(len(numbers))):
        twice = repeated(numbers)
        lacking = sorted(set(range(len(numbers))) - set(numbers))
        wrong = f"{twice[:8]} more than once" if twice else f"none of {lacking[:8]}"
        raise ValueError(f"{path}: expected each id from 0 to C - 1 once (255: ignored), got {wrong}")
    return [entry for _, entry in sorted(zip(numbers, found, strict=True))]


def _check(classes: list[Entry], ignored: list[Entry], path: Path) -> None:
    names = [entry.name for entry in classes]
    lowered = [name.lower() for name in names]
    twice = sorted({name for name in names if lowered.count(name.lower()) > 1})
    if len(names) < 2:
        raise ValueError(f"{path}: expected at least two class names, one a line, got {names}")
    if twice:
        raise ValueError(f"{path}: expected every class name once, got {', '.join(twice[:8])} more than once")
    if len(names) > MOST_CLASSES:
        raise ValueError(f"{path}: expected at most {MOST_CLASSES} classes (ids of 8 bits), got {len(names)}")
    colors = [entry.color for entry in classes + ignored if entry.color is not None]
    if strange := [color for color in colors if max(color) > 255]:
        raise ValueError(f"{path}: expected colors of three numbers from 0 to 255, got {strange[:4]}")
    if colors_twice := repeated(colors):
        raise ValueError(f"{path}: expected every color once, got {colors_twice[:4]} more than once")
