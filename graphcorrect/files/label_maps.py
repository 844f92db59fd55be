"""Label maps: the classes of a data set, and which ids and colors stand for them in its masks."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphcorrect.files.class_names import MOST_CLASSES, Entries, entries_of, read_entries
from graphcorrect.files.class_tables import Color
from graphcorrect.files.faults import reading
from graphcorrect.files.saving import write_atomically
from graphcorrect.files.text import few, load_yaml, read_text, repeated
from graphcorrect.labels import IGNORE_INDEX

STANDARD_NAMES = ("labelmap.txt", "label_map.txt", "classes.txt", "class_dict.csv", "classes.csv", "labels.csv",
                  "classes.json", "data.yaml", "dataset.yaml")  # fmt: skip


@dataclass(frozen=True)
class LabelMap:
    """Which class an id or a color stands for.

    Args:
        names: of the C classes, in the order of their labels; at most 255.
        colors: (red, green, blue) and its label, 255 for pixels that are ignored. Several colors may have one label.
        ids: ids as they stand in files and their labels, where these differ; empty: an id is the label.
        ignore_others: ids and colors that are not listed are ignored pixels rather than faults.

    Raises:
        ValueError: a label is neither below C nor 255, a name stands twice, or there are too many.

    Example:
        >>> label_map = LabelMap(("road", "car"), {(128, 64, 128): 0, (0, 0, 142): 1, (0, 0, 0): 255})
        >>> label_map.color_of(1)
        (0, 0, 142)
    """

    names: tuple[str, ...]
    colors: Mapping[Color, int] = field(default_factory=dict, hash=False)
    ids: Mapping[int, int] = field(default_factory=dict, hash=False)
    ignore_others: bool = False

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= MOST_CLASSES:
            raise ValueError(f"expected `names` of 1 to {MOST_CLASSES} classes, got {len(self.names)}")
        if twice := repeated([*self.names]):
            raise ValueError(f"expected every name in `names` once, got {', '.join(twice[:8])} more than once")
        known = {*range(len(self.names)), IGNORE_INDEX}
        for name, labels in (("colors", self.colors.values()), ("ids", self.ids.values())):
            strange = sorted(set(labels) - known)
            if strange:
                raise ValueError(
                    f"expected labels in `{name}` from 0 to {len(self.names) - 1} or {IGNORE_INDEX}, got {strange[:8]}"
                )
        wrong = [color for color in self.colors if len(color) != 3 or min(color) < 0 or max(color) > 255]
        if wrong:
            raise ValueError(f"expected `colors` of three numbers from 0 to 255, got {wrong[:4]}")
        if any(not 0 <= number <= 65535 for number in self.ids):
            raise ValueError(f"expected `ids` from 0 to 65535, as files hold them, got {sorted(self.ids)[:4]}")

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.names)

    def color_of(self, label: int) -> Color | None:
        """The first color of a label; None without one."""
        return next((color for color, found in self.colors.items() if found == label), None)

    def id_of(self, label: int) -> int | None:
        """The first id of a label as files hold it; None where no id stands for it."""
        if not self.ids or label == IGNORE_INDEX and IGNORE_INDEX not in {*self.ids, *self.ids.values()}:
            return label
        return next((number for number, found in self.ids.items() if found == label), None)


def numbered(num_classes: int) -> LabelMap:
    """Classes that are called by their number."""
    return LabelMap(tuple(map(str, range(num_classes))))


def read_label_map(path: Path) -> LabelMap:
    r"""CVAT's `labelmap.txt`, a list of classes (`classes.txt`), a table (`name,r,g,b`), or a data set's YAML or JSON.

    A last line `void`, or one with the id 255, stands for ignored pixels, and so does its color.

    Raises:
        ValueError: it is none of these, or leaves it open which class an id or a color stands for; it names the file.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "labelmap.txt").write_text("road:128,64,128::\ncar:0,0,142::\n")
        >>> read_label_map(folder / "labelmap.txt").names
        ('road', 'car')
    """
    path = Path(path)
    with reading(path, "names of classes, with their colors where masks hold colors"):
        if path.suffix.lower() == ".json":
            return label_map_of(json.loads(read_text(path)))
        if path.suffix.lower() in (".yaml", ".yml"):
            return label_map_of(load_yaml(path))
        return _of_entries(read_entries(path))


def find_label_map(folder: Path) -> Path | None:
    """The file of a folder that says what its masks mean, if there is one under a usual name."""
    there = {entry.name.lower(): entry for entry in folder.iterdir()} if folder.is_dir() else {}
    return next((there[name] for name in STANDARD_NAMES if name in there), None)


def label_map_of(content: Any) -> LabelMap:
    """The classes of a data set's YAML or JSON, as Ultralytics (`names`, `label_mapping`) and LightlyTrain have them.

    One name of Ultralytics' is a class beside a background. LightlyTrain's `classes` name ids or colors for each
    class, and `ignore_classes` are ignored; labels are what is left, counted from 0.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"expected a table, got {type(content).__name__}")
    if "names" in content:
        names = content["names"]
        by_id = dict(enumerate(names)) if isinstance(names, list) else _numbered_keys(names, "names")
        if sorted(by_id) != list(range(len(by_id))):
            raise ValueError(f"expected `names` from 0 to C - 1, got {sorted(by_id)[:8]}")
        labels = [_name(by_id[number]) for number in range(len(by_id))]
        if len(labels) == 1:  # of one class: 0 is what is not of it
            labels.insert(0, "background")
        return LabelMap(tuple(labels), {}, _mapping(content, len(labels)))
    return _of_classes(_numbered_keys(content.get("classes", content), "classes"), content.get("ignore_classes") or [])


def _name(value: Any) -> str:
    if not isinstance(value, (str, int, float)):
        raise ValueError(f"expected names of classes as text, got {type(value).__name__}")
    return str(value)


def _numbered_keys(table: Any, key: str) -> dict[int, Any]:
    if not isinstance(table, Mapping) or not all(str(number).lstrip("-").isdecimal() for number in table):
        raise ValueError(f"expected `{key}` as a table of ids and names, got {type(table).__name__}")
    return {int(number): value for number, value in table.items()}


def _mapping(content: Mapping[str, Any], num_classes: int) -> dict[int, int]:
    """Ultralytics' `label_mapping`: ids in files to labels, `ignore_label` to 255; what is not listed stays."""
    listed = content.get("label_mapping")
    if not listed:
        return {}
    table = _numbered_keys(listed, "label_mapping")
    found = {number: IGNORE_INDEX if label in ("ignore_label", None) else int(label) for number, label in table.items()}
    stay = {number: number for number in range(num_classes) if number not in found}
    return {number: label for number, label in {**found, **stay}.items() if number >= 0}


def _of_classes(classes: dict[int, Any], ignored: Iterable[Any]) -> LabelMap:
    left_out = {int(number) for number in ignored}
    if left_out - set(classes):
        raise ValueError(f"expected `ignore_classes` among `classes`, got {sorted(left_out - set(classes))}")
    kept = [number for number in sorted(classes) if number not in left_out]
    labels = {number: label for label, number in enumerate(kept)} | dict.fromkeys(left_out, IGNORE_INDEX)
    names: list[str] = []
    colors: dict[Color, int] = {}
    ids: dict[int, int] = {}
    for number in sorted(classes):
        entry = classes[number]
        is_table = isinstance(entry, Mapping)
        if number in kept:
            names.append(_name(entry["name"] if is_table else entry))
        for value in entry.get("labels", entry.get("values", [number])) if is_table else [number]:
            key = tuple(value) if isinstance(value, (list, tuple)) else int(value)
            held: dict[Any, int] = colors if isinstance(key, tuple) else ids
            if held.setdefault(key, labels[number]) != labels[number]:
                raise ValueError(f"expected each value for one class, got {key} for two")
    return LabelMap(tuple(names), colors, ids, ignore_others=True)


def _of_entries(found: Entries) -> LabelMap:
    lines = [(entry, label) for label, entry in enumerate(found.classes)]
    lines += [(entry, IGNORE_INDEX) for entry in found.ignored]
    without = [entry.name for entry in found.classes if entry.color is None]
    if 0 < len(without) < len(found.classes):
        raise ValueError(f"expected a color for every class or for none, got none for {', '.join(without[:8])}")
    colors = {entry.color: label for entry, label in lines if entry.color is not None}
    if found.is_cvat and colors:
        colors.setdefault((0, 0, 0), IGNORE_INDEX)
    return LabelMap(tuple(entry.name for entry in found.classes), colors)


def write_label_map(path: Path, label_map: LabelMap) -> None:
    """Writes what :func:`read_label_map` reads: CVAT's form for `.txt` files called labelmap, a table for `.csv`.

    Other `.txt` files get a line `id name` each, with the color behind it where there are colors.

    Raises:
        ValueError: the name has another ending, or the form no place for what the map holds; the message says what.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_label_map(folder / "classes.csv", LabelMap(("road", "car"), {(128, 64, 128): 0, (0, 0, 142): 1}))
        >>> print((folder / "classes.csv").read_text().strip())
        id,name,r,g,b
        0,road,128,64,128
        1,car,0,0,142
    """
    path = Path(path)
    if path.suffix.lower() not in (".txt", ".csv"):
        hint = "; write_dataset_yaml writes YAML" if path.suffix.lower() in (".yaml", ".yml", ".json") else ""
        raise ValueError(f"expected a list of classes, .txt or .csv, got {path.name}{hint}")
    if label_map.ids:
        raise ValueError("expected a label map without `ids`: a list of classes has no place for them; write a YAML")
    if repeated([*label_map.colors.values()]):
        raise ValueError("expected a label map of one color a class: a list of classes has no place for more")
    write_atomically(path, list_of_classes(path, label_map.names, label_map.colors).encode())


def list_of_classes(path: Path, names: tuple[str, ...], colors: Mapping[Color, int]) -> str:
    """The text of a list of classes, in the form of its file's name; refused if it would be read as another.

    `colors` has one for a label at most.
    """
    fault = _fault_of(path, names, colors)
    if fault is None:
        return _text_of(path, names, colors)

    def fault_with(*kept: str) -> str | None:
        """Of the list in which all other classes have plain names, which every list can hold."""
        called = (name if name in kept else f"class_{number}_" for number, name in enumerate(names))
        return _fault_of(path, tuple(called), colors)

    wrong = [] if fault_with() else [repr(name) for name in names if fault_with(name)]
    got = f"{few(wrong)} ({fault}); call them otherwise" if wrong else f"others ({fault})"
    raise ValueError(f"expected names that {path.name} can hold, got {got}")


def _fault_of(path: Path, names: tuple[str, ...], colors: Mapping[Color, int]) -> str | None:
    """Why a list of classes would be read as another, if it would."""
    try:
        again = _of_entries(entries_of(_text_of(path, names, colors), path))
    except ValueError as error:
        return str(error)
    is_same = again.names == names and {**again.colors, **colors} == again.colors
    return None if is_same else f"which would be read as {few([*again.names])}"


def _text_of(path: Path, names: tuple[str, ...], colors: Mapping[Color, int]) -> str:
    color_of = {label: color for color, label in colors.items()}
    titles = [*enumerate(names), *([(IGNORE_INDEX, "void")] if IGNORE_INDEX in color_of else [])]
    lines = [(label, title, color_of.get(label, ())) for label, title in titles]
    if path.suffix.lower() == ".csv":
        content = io.StringIO()
        writer = csv.writer(content, lineterminator="\n")
        writer.writerow(("id", "name", *("rgb" if colors else "")))
        writer.writerows((label, name, *color) for label, name, color in lines)
        return content.getvalue()
    if path.stem.lower() in ("labelmap", "label_map"):
        of_cvat = [f"{name}:{','.join(map(str, color))}::" for _, name, color in lines]
        return "\n".join(["# label:color_rgb:parts:actions", *of_cvat, ""])
    between = "," if colors else " "
    return "".join(f"{between.join(map(str, (label, name, *color)))}\n" for label, name, color in lines)
