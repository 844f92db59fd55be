"""Names of classes out of a file: a name a line, alone or with its id (and a color), whatever separates them.

background          0 background        0: background       background,0,0,0,0
sheep               1 sheep             1: sheep            sheep,1,128,64,0
void                255 void            255: void           void,255,224,224,192
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

from graphcorrect.files.text import encoding_of, read_lines

MOST_CLASSES = 255  # ids are of 8 bits, and 255 is the ignored one
IGNORED_IDS = (255, -1)
IGNORED_NAMES = {"void", "ignore", "ignored", "unlabeled", "unlabelled", "dontcare", "don't care"}
NUMBER = re.compile(r"[+-]?\d+[.)]?\Z")
SEPARATORS = (",", ";", "\t", ":", "=", "|", None)  # None: blanks
QUOTES = " \"'"


class Row(NamedTuple):
    """A line: its name, and the numbers before and behind it."""

    before: list[int]
    name: str
    behind: list[int]


def read_class_names(path: Path) -> tuple[list[str], list[str]]:
    """C names in the order of their ids, and notes: what a person should know of how the file was read.

    Raises:
        ValueError: the file leaves it open which class an id stands for; the message names it.
    """
    lines = [unicodedata.normalize("NFC", line) for line in read_lines(path)]
    if len(lines) == 1:
        lines = [part.strip() for part in re.split(r"[,;\t]", lines[0]) if part.strip()]
    numbered, notes = _with_ids(lines, path) or _with_ids(_but_ignored(lines), path), []
    if numbered is not None:
        names = _by_id(numbered, path)
    else:
        names = _with_colors(lines) or [line.strip(QUOTES + ",;") for line in lines]
        if len(names) > 2 and names[-1].lower() in IGNORED_NAMES:
            notes.append(f"{path}: {names[-1]!r}, the last line, is taken for ignored pixels (255), not for a class")
            names.pop()
    _check(names, path)
    if encoding_of(Path(path).read_bytes()) == "cp1252":
        strange = ", ".join(name for name in names if not name.isascii())
        notes.append(f"{path}: is not UTF-8; read in Windows' encoding: {strange}")
    notes += [
        f"{path}: {name!r} is class {number}, to be learned and scored; what is to be ignored is 255 in the masks"
        for number, name in enumerate(names)
        if name.lower() in IGNORED_NAMES
    ]
    return names, notes


def _with_ids(lines: list[str], path: Path) -> list[tuple[int, str]] | None:
    """(id, name) of every line, or None where names have no ids."""
    for separator in SEPARATORS:
        rows = [_row(line, separator) for line in lines]
        if len(rows) > 2 and not rows[0].before and not rows[0].behind:
            rows = rows[1:]  # a header: `id,name`
        shapes = {(len(row.before), len(row.behind)) for row in rows}
        if any(not row.name for row in rows) or not rows:
            continue
        first = {len(row.before) for row in rows}
        if separator is not None and shapes == {(1, 1)}:
            raise ValueError(f"{path}: expected id and name, got two numbers a line: {lines[-1]!r}; which is the id?")
        if first in ({1}, {4}) and (separator is None or len(shapes) == 1 and shapes <= {(1, 0), (1, 3), (4, 0)}):
            has_colors = all(len(row.behind) == 3 for row in rows)  # else numbers behind a name are part of it
            return [
                (row.before[0], row.name if has_colors else " ".join([row.name, *map(str, row.behind)])) for row in rows
            ]
        # `sheep 1` has an id, `digit 1` beside `digit 2` has none
        if shapes in ({(0, 1)}, {(0, 4)}) and len({row.name for row in rows}) == len(rows):
            return [(row.behind[0], row.name) for row in rows]
    if lines != _but_ignored(lines):
        return None
    rows = [_row(line, None) for line in lines]
    with_ids = [row.before[0] for row in rows if row.before and row.name]
    without = [line for line, row in zip(lines, rows, strict=True) if not (row.before and row.name)]
    if without and len(set(with_ids)) >= max(2, len(rows) / 2):
        raise ValueError(f"{path}: expected an id on every line or on none, got lines without: {without[:5]}")
    return None


def _but_ignored(lines: list[str]) -> list[str]:
    """Without the names that stand for ignored pixels."""
    return [line for line in lines if line.lower() not in IGNORED_NAMES]


def _with_colors(lines: list[str]) -> list[str] | None:
    """Names that stand beside three numbers each."""
    for separator in SEPARATORS:
        rows = [_row(line, separator) for line in lines]
        if len(rows) > 2 and not rows[0].before and not rows[0].behind:
            rows = rows[1:]
        if rows and {(len(row.before), len(row.behind)) for row in rows} in ({(3, 0)}, {(0, 3)}):
            return [row.name for row in rows]
    return None


def _row(line: str, separator: str | None) -> Row:
    parts = [part for part in (part.strip(QUOTES) for part in line.split(separator)) if part]
    is_number = [bool(NUMBER.match(part)) for part in parts]
    first = is_number.index(False) if False in is_number else len(parts)
    last = len(parts) - is_number[::-1].index(False) if False in is_number else len(parts)
    before, behind = ([int(part.rstrip(".)")) for part in some] for some in (parts[:first], parts[last:]))
    between = " " if separator is None else ", " if separator == "," else separator
    name = between.join(parts[first:last])
    return Row(before, name.removeprefix("- ").strip(), behind)


def _by_id(found: list[tuple[int, str]], path: Path) -> list[str]:
    kept = sorted((number, name) for number, name in found if number not in IGNORED_IDS)
    ids = [number for number, _ in kept]
    if ids != list(range(len(ids))):
        twice = sorted({number for number in ids if ids.count(number) > 1})
        lacking = sorted(set(range(max(ids, default=0) + 1)) - set(ids))
        wrong = f"{twice[:8]} more than once" if twice else f"none of {lacking[:8]}"
        raise ValueError(f"{path}: expected each id from 0 to C - 1 once (255: ignored), got {wrong}")
    return [name for _, name in kept]


def _check(names: list[str], path: Path) -> None:
    lowered = [name.lower() for name in names]
    twice = sorted({name for name in names if lowered.count(name.lower()) > 1})
    if len(names) < 2:
        raise ValueError(f"{path}: expected at least two class names, one a line, got {names}")
    if twice:
        raise ValueError(f"{path}: expected every class name once, got {', '.join(twice[:8])} more than once")
    if len(names) > MOST_CLASSES:
        raise ValueError(f"{path}: expected at most {MOST_CLASSES} classes (ids of 8 bits), got {len(names)}")
