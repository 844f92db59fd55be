"""What a run began with, as its checkpoint holds it: images, masks, names of classes, crop, and a sum of each file.

A run that goes on does so with the same: what differs is named, and nothing is done.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segmentation.checking import ROLES
from segmentation.datasets import SegmentationData
from segmentation.recipe import Recipe, known_keys, listed
from segmentation.recipe_files import is_list
from segmentation.spelling import readable

SHOWN = 20
# A resumed run may be watched otherwise and loaded otherwise; what decides its outcome stays.
MAY_CHANGE_ON_RESUME = ("running.device", "running.workers", "running.log_every", "running.checkpoint_every",
                        "running.tensorboard")  # fmt: skip


def describe(data: SegmentationData, recipe: Recipe, crop: tuple[int, int], sums: dict[Path, int]) -> dict[str, Any]:
    """A data set and a recipe in plain values; paths inside the data set's folder are written from there."""
    samples = {
        role: [[_name(path, data.folder) for path in sample[:2]] for sample in getattr(data, role)] for role in ROLES
    }
    return {
        "recipe": {key: listed(recipe.get(key)) for key in known_keys() if key not in MAY_CHANGE_ON_RESUME},
        "layout": data.layout,
        "class_names": list(data.class_names),
        "crop": list(crop),
        "meanings": _meanings(data),
        "samples": samples,
        "sums": {_name(path, data.folder): value for path, value in sums.items()},
    }


def as_it_began(
    data: SegmentationData, recipe: Recipe, began: dict[str, Any], sums: dict[Path, int]
) -> SegmentationData:
    """The data set in the order in which the run began with it.

    Raises:
        ValueError: data set or recipe is another one; the message lists what differs.
    """
    now = describe(data, recipe, tuple(began["crop"]), sums)
    differences = _differences(began, now)
    if differences:
        more = f"\n  ... and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        raise ValueError(
            f"expected data set and recipe that the run began with, got {len(differences)} difference(s):\n  "
            + "\n  ".join(differences[:SHOWN])
            + f"{more}\nrestore what it was, or begin anew with --overwrite"
        )
    by_name = {}
    for role in ROLES:
        by_name |= dict(zip((image for image, _ in now["samples"][role]), getattr(data, role), strict=True))
    return data._replace(**{role: [by_name[image] for image, _ in began["samples"][role]] for role in ROLES})


def _differences(began: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """A line each; roles that changed because images came or went are not listed beside those."""
    before, after = began["recipe"], now["recipe"]
    keys = [key for key in after if before.get(key) != after[key]]
    found = [f"`{key}` was {before.get(key)}, is {after[key]}" for key in keys]
    if began["layout"] != now["layout"]:
        found.append(f"the layout was {began['layout']}, is {now['layout']}")
    found += _class_names(began["class_names"], now["class_names"])
    if began.get("meanings") != now["meanings"]:
        found.append("ids and colors of the classes are others")
    before, after = ({image: (role, mask) for role in ROLES for image, mask in which["samples"][role]}
                     for which in (began, now))  # fmt: skip
    found += [f"{image}: is new among the images" for image in sorted(after.keys() - before.keys())]
    found += [f"{image}: is no longer among the images" for image in sorted(before.keys() - after.keys())]
    if before.keys() == after.keys():
        for image in sorted(before):
            (role, mask), (new_role, new_mask) = before[image], after[image]
            if _listed_as(role, began) != _listed_as(new_role, began):
                found.append(f"{image}: was {role.replace('_', ' ')}, is {new_role.replace('_', ' ')}")
            elif mask != new_mask:
                found.append(f"{image}: its mask was {mask}, is {new_mask}")
    both = began["sums"].keys() & now["sums"].keys()
    found += [f"{path}: has another content" for path in sorted(both) if began["sums"][path] != now["sums"][path]]
    return found


def _listed_as(role: str, began: dict[str, Any]) -> str:
    """Whose list an image of a role stands in: what was drawn from the training images depends on their order too."""
    return role if role == "test" or role == "labeled" and is_list(began["recipe"]["data.labeled"]) else "training"


def _class_names(before: list[str], after: list[str]) -> list[str]:
    if len(before) != len(after):
        return [f"there were {len(before)} classes ({', '.join(before)}), there are {len(after)} ({', '.join(after)})"]
    pairs = enumerate(zip(before, after, strict=True))
    return [f"class {number} was {old!r}, is {new!r}" for number, (old, new) in pairs if old != new]


def _meanings(data: SegmentationData) -> list[list[int]] | None:
    """What ids and colors of masks stand for, where a label map says so."""
    label_map = data.labeled[0].label_map if data.labeled else None
    if label_map is None:
        return None
    listed = [[*color, label] for color, label in label_map.colors.items()]
    return sorted(listed + [[number, label] for number, label in label_map.ids.items()])


def _name(path: Path | None, folder: Path | None) -> str | None:
    if path is None:
        return None
    inside = folder is not None and path.is_relative_to(folder)
    return readable(str(path.relative_to(folder).as_posix() if inside else path.absolute()))
