"""Recipes on disk: YAML in any encoding, whose relative paths mean what they meant where they were typed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from graphcorrect.files.text import read_text

LISTS = ("data.labeled", "data.unlabeled", "data.test", "data.val")
PATHS = ("data.folder", *LISTS, "data.classes", "schedule.start", "network.weights")  # fmt: skip


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error, rather than the last of the two."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_recipe_file(path: Path) -> dict[str, Any]:
    """The sections of a recipe's file.

    Raises:
        ValueError: it is no YAML, or holds something else than sections; the message names it.
    """
    try:
        content = yaml.load(read_text(path), _UniqueKeys) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: is no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected sections with keys, got {type(content).__name__}")
    return content


def place_paths(content: dict[str, Any], folder: Path) -> None:
    """Make the paths of a recipe's sections absolute: from `folder` where they are there, else from here."""
    for dotted in PATHS:
        section, key = dotted.split(".")
        held = content.get(section)
        if isinstance(held, dict) and isinstance(held.get(key), str):
            held[key] = placed(dotted, held[key], folder)


def of_earlier_versions(content: dict[str, Any]) -> dict[str, Any]:
    """A whole recipe, in today's words: before, one key said of all methods whether they look up labeled pixels."""
    anchors, loss = content.get("anchors"), content.get("loss")
    if not (isinstance(anchors, dict) and isinstance(loss, dict)):
        return content
    content = content | {"anchors": {**anchors}, "loss": {**loss}}
    if content["anchors"].pop("use", False):
        content["methods"] = ["mllc+anchors" if name == "mllc" else name for name in content["methods"]]
    if content["loss"].pop("soft", False):
        content["loss"]["labels"] = "soft"
    return content


def placed(key: str, value: Any, folder: Path, data: str | None = None) -> Any:
    """The value of a dotted key, absolute if it is a path: from `folder` if it is there, else from here.

    A list that is in neither may be in `data`, the folder of the data set; while that is not known it stays as it is.
    """
    if not isinstance(value, str) or key not in PATHS or not _is_path(key, value):
        return value
    path = Path(value).expanduser()
    places = [folder, Path(), *([Path(data)] if key in LISTS and data else [])]
    found = next((place / path for place in places if (place / path).exists()), None)
    if found is None and key in LISTS:
        return value
    return os.path.abspath(found or path)


def _is_path(key: str, value: str) -> bool:
    if key == "data.labeled":
        return is_list(value)
    return key != "network.weights" or value not in ("auto", "none")


def is_list(labeled: str | None) -> bool:
    """Whether `data.labeled` names a list, rather than a number or a share."""
    return labeled is not None and not re.fullmatch(r"\d+|\d+/\d+", labeled)
