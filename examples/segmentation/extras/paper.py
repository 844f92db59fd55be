"""The paper's rows, read from `paper_rows.yaml`: which recipe each one is, and the figures it stands beside."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from graphcorrect.files.faults import read_lines
from segmentation.recipe import Recipe, load


@dataclass(frozen=True)
class Row:
    """A row of a table, or a point of a figure.

    Attributes:
        name: what `reproduce.py --run` and `--recipe` take.
        title: of its table.
        base: the recipe, and `settings` the dotted keys that differ.
        lists: names that published splits give to its labeled images.
        published: mIoU in percent by method, as far as known.
        axis: the key that the row's table varies, if it is one key.
    """

    name: str
    title: str
    base: str
    settings: dict[str, Any]
    lists: tuple[str, ...]
    published: dict[str, float]
    axis: str | None

    def recipe(self, overrides: dict[str, Any] | None = None) -> Recipe:
        """The row's recipe, with keys laid over it."""
        return load(self.base, self.settings | (overrides or {}))


@cache
def rows() -> dict[str, Row]:
    """All rows by name, in the order of the tables."""
    found: dict[str, Row] = {}
    for group in yaml.safe_load((Path(__file__).parent / "paper_rows.yaml").read_text())["groups"]:
        shared = {"methods": group["only"]} if "only" in group else {}
        for name, row in group["rows"].items():
            settings, lists = shared | row.get("set", {}), tuple(row.get("lists", group.get("lists", ())))
            published = row.get("paper", {})
            found[name] = Row(name, group["title"], group["recipe"], settings, lists, published, group.get("axis"))
    return found


def load_any(name: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """The recipe of a row, or the recipe or file of that name."""
    return rows()[name].recipe(overrides) if name in rows() else load(name, overrides)


def find_list(row: Row, splits: Path) -> Path:
    """The row's labeled list in a folder of published splits, whichever of its names they use.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    for name in row.lists:
        path = splits / name / "labeled.txt"
        if path.exists() or path.is_symlink():
            read_lines(path)  # what is no text says so before anything is made of it
            return path
    names = " or ".join(f"{name}/labeled.txt" for name in row.lists) or "no list, as none is published for this row"
    raise ValueError(f"expected {splits} to hold {names}, for row {row.name}")
