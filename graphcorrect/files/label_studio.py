"""Label Studio's brush results: a label map of an image out of its regions, and regions out of labels."""

from __future__ import annotations

import json
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import torch
from torch import Tensor

from graphcorrect import _checks
from graphcorrect.files.brush import decode_brush, encode_brush
from graphcorrect.files.faults import reading, refuse, words
from graphcorrect.files.label_maps import LabelMap
from graphcorrect.files.saving import write_atomically
from graphcorrect.files.text import read_text
from graphcorrect.labels import IGNORE_INDEX

KINDS = ("brushlabels", "labels")
OTHERS = ("polygon", "rectangle", "ellipse", "keypoint", "bitmask", "vector", "brush")  # beginnings of `type`
PLACES = {"points", "vertices", "x", "imageDataURL"}  # keys of a region of another kind
LOCAL = "local-files"  # in addresses of a server's own files, whose path is in the query: /data/local-files/?d=PATH


class BrushMask(NamedTuple):
    """The labels that a task's brush regions make.

    Attributes:
        name: of the task's image, without folder and ending.
        labels: (H, W) int64, 255 where nothing is painted (unless a background is named).
        task: the task as it stands in the file, to write corrections beside its annotations.

    Example:
        >>> mask = BrushMask("a", torch.tensor([[0, 1]]), {"id": 7})
        >>> mask._replace(labels=torch.tensor([[1, 1]])).labels
        tensor([[1, 1]])
    """

    name: str
    labels: Tensor
    task: Mapping[str, Any]


def read_brush_masks(path: Path, label_map: LabelMap, *, background: str | None = None) -> list[BrushMask]:
    """The masks of a JSON export: of every task its last annotation with brush regions; other tasks are left out.

    Args:
        path: the export, of the kind "JSON".
        label_map: names of the classes, as the labeling interface has them.
        background: the class of pixels that no region covers; None: they are ignored, 255.

    Regions are painted in their order, so that later ones cover earlier ones. Polygons, boxes and other regions that
    no brush has painted are left out; a `UserWarning` says how many there were, and of which kinds.

    Raises:
        FileFault: it is no such export; the message names it.
        ValueError: regions that cannot be read, all of them listed, each with the file and its task.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> label_map = LabelMap(("road", "car"))
        >>> results = brush_results(torch.tensor([[0, 1]]), label_map)
        >>> task = {"id": 7, "data": {"image": "/data/a.jpg"}, "annotations": [{"result": results}]}
        >>> _ = (folder / "export.json").write_text(json.dumps([task]))
        >>> read_brush_masks(folder / "export.json", label_map)[0].labels
        tensor([[0, 1]])
    """
    path = Path(path)
    rest = IGNORE_INDEX if background is None else _label_of(background, label_map)
    with reading(path, "tasks as Label Studio exports them (JSON)"):
        tasks = json.loads(read_text(path))
        if not isinstance(tasks, list) or not all(isinstance(task, Mapping) for task in tasks):
            raise ValueError(f"got {type(tasks).__name__}, not a list of tasks")
    found, faults = [], []
    left_out: Counter[str] = Counter()
    for number, task in enumerate(tasks):
        try:
            regions = _regions_of(task)
            left_out.update(_others_of(task))
            if regions:
                found.append(BrushMask(_name_of(task, number), paint(regions, label_map, rest), task))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            said = str(error) if isinstance(error, ValueError) else f"is not as it is exported ({words(error)})"
            faults.append(f"{path}, task {task.get('id', number)}: {said}")
    refuse(faults, "Label Studio's tasks have")
    if left_out:
        kinds = ", ".join(f"{many} {kind}" for kind, many in left_out.most_common())
        warnings.warn(
            f"{path}: expected regions of the brush, left out {left_out.total()} of other kinds ({kinds})", stacklevel=2
        )
    return found


def paint(regions: Iterable[Mapping[str, Any]], label_map: LabelMap, background: int = IGNORE_INDEX) -> Tensor:
    """Labels (H, W) int64 of brush results, later ones above earlier ones; `background` where there is none."""
    labels: Tensor | None = None
    for region in regions:
        size = (int(region["original_height"]), int(region["original_width"]))
        if region.get("image_rotation"):
            raise ValueError(f"expected images that are not turned, got one turned by {region['image_rotation']}")
        value = region["value"]
        kind = next((kind for kind in KINDS if value.get(kind)), None)
        if kind is None or len(value[kind]) != 1:
            raise ValueError(f"expected one label a region, got {value.get('brushlabels', value.get('labels'))}")
        if value.get("format", "rle") != "rle":
            raise ValueError(f"expected regions in the format 'rle', got {value['format']!r}")
        painted = decode_brush(value["rle"], *size)
        if labels is None:
            labels = torch.full(size, background)
        if tuple(labels.shape) != size:
            raise ValueError(f"expected regions of one size, got {tuple(labels.shape)} and {size} (height, width)")
        labels[painted] = _label_of(value[kind][0], label_map)
    if labels is None:
        raise ValueError("expected at least one brush region, got none")
    return labels


def brush_results(
    labels: Tensor,
    label_map: LabelMap,
    *,
    from_name: str = "tag",
    to_name: str = "image",
    leave_out: Iterable[str] = (),
) -> list[dict[str, Any]]:
    """A result for each class that labels hold, as Label Studio imports it in annotations and predictions.

    Args:
        labels: (H, W) integers in [0, C), 255 where there is none, which no region covers.
        label_map: the names.
        from_name: name of the `BrushLabels` tag.
        to_name: name of the `Image` tag.
        leave_out: classes without a region, such as the background.

    Raises:
        ValueError: a label is outside the classes.
        TypeError: labels are not integers.

    Example:
        >>> results = brush_results(torch.tensor([[0, 1, 1]]), LabelMap(("road", "car")))
        >>> [result["value"]["brushlabels"] for result in results]
        [['road'], ['car']]
    """
    _checks.integral("labels", labels)
    _checks.ndim("labels", labels, (2,), "(H, W)")
    _checks.labels_in_range("labels", labels, label_map.num_classes, IGNORE_INDEX)
    without = {_label_of(name, label_map) for name in leave_out} | {IGNORE_INDEX}
    height, width = labels.shape
    results = []
    for label in sorted(set(labels.flatten().tolist()) - without):
        rle = encode_brush(labels == label)
        results.append(
            {
                "id": f"{zlib.crc32(bytes([label, *rle])):08x}",
                "type": "brushlabels",
                "from_name": from_name,
                "to_name": to_name,
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {"format": "rle", "rle": rle, "brushlabels": [label_map.names[label]]},
            }
        )
    return results


def write_brush_masks(
    path: Path,
    masks: Iterable[BrushMask],
    label_map: LabelMap,
    *,
    model_version: str = "graphcorrect",
    leave_out: Iterable[str] = (),
) -> None:
    """Writes labels as predictions of their tasks: a file that Label Studio imports, annotations left as they are.

    The names of the tags are those that the task's own regions have.

    Raises:
        ValueError: a label is outside the classes.
        OSError: it cannot be written.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> label_map = LabelMap(("road", "car"))
        >>> results = brush_results(torch.tensor([[0, 1]]), label_map)
        >>> task = {"id": 7, "data": {"image": "/data/a.jpg"}, "annotations": [{"result": results}]}
        >>> write_brush_masks(folder / "import.json", [BrushMask("a", torch.tensor([[1, 1]]), task)], label_map)
        >>> json.loads((folder / "import.json").read_text())[0]["predictions"][0]["model_version"]
        'graphcorrect'
    """
    tasks, left_out = [], tuple(leave_out)
    for mask in masks:
        first = next(iter(_regions_of(mask.task)), {})
        tags = {key: first[key] for key in ("from_name", "to_name") if key in first}
        results = brush_results(mask.labels, label_map, leave_out=left_out, **tags)
        others = [each for each in _predictions_of(mask.task) if each.get("model_version") != model_version]
        tasks.append({**mask.task, "predictions": [*others, {"model_version": model_version, "result": results}]})
    write_atomically(path, json.dumps(tasks).encode())


def _regions_of(task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The brush regions of the last annotation that has some; of a prediction where nobody has annotated."""
    regions = [region for region in _last_with(_is_brush, task) if _is_brush(region)]
    # of the tags Brush and Labels, the first has no label and the second the same id
    labeled = {region.get("id") for region in regions if set(KINDS) & set(region["value"])}
    return [each for each in regions if set(KINDS) & set(each["value"]) or each.get("id") not in labeled]


def _others_of(task: Mapping[str, Any]) -> list[str]:
    """The kinds of the regions that stand beside those of the brush, in their place, or in a later annotation."""
    results = _last_with(_is_brush, task)
    latest = _last_with(lambda region: _is_brush(region) or _is_other(region), task)
    results += latest if latest != results else []
    # what is said of a region, such as its label or a text, has its id and its place
    kind_of = {region["id"]: "brush" for region in results if _is_brush(region) and "id" in region}
    found = []
    for kind, region in sorted(((_kind_of(each), each) for each in results if _is_other(each)), key=_is_unknown):
        if "id" not in region or region["id"] not in kind_of:
            found.append(kind)
            kind_of.update({region["id"]: kind} if "id" in region else {})
    return found


def _last_with(is_wanted: Callable[[Mapping[str, Any]], bool], task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The results of the last annotation, or else prediction, that has such a region; none where none has."""
    made = task.get("annotations", task.get("completions")) or []
    for part in ([each for each in made if not each.get("was_cancelled")], _predictions_of(task)):
        for each in reversed(part):
            results = each.get("result") or []
            if any(map(is_wanted, results)):
                return [*results]
    return []


def _is_brush(region: Mapping[str, Any]) -> bool:
    return isinstance(region.get("value"), Mapping) and "rle" in region["value"]


def _is_other(region: Mapping[str, Any]) -> bool:
    """Whether a result has a place in the image that no brush has painted; a choice or a text has none."""
    value = region.get("value")
    return isinstance(value, Mapping) and "rle" not in value and bool(PLACES & {*value})


def _kind_of(region: Mapping[str, Any]) -> str:
    return next((kind for kind in OTHERS if str(region.get("type", "")).startswith(kind)), "unknown")


def _is_unknown(found: tuple[str, Any]) -> bool:
    return found[0] == "unknown"


def _predictions_of(task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A task's predictions, unless it has nothing but their ids, as some exports do."""
    return [each for each in task.get("predictions") or [] if isinstance(each, Mapping)]


def _name_of(task: Mapping[str, Any], number: int) -> str:
    """The name of a task's image: a path or address among its data."""
    data = task.get("data", {})
    named = [data["image"]] if "image" in data else [each for each in data.values() if "/" in str(each)]
    address = urlsplit(str(next(iter(named), "")))
    path = unquote(address.path)
    if PurePosixPath(path).name == LOCAL:
        path = parse_qs(address.query).get("d", [""])[0]
    return PurePosixPath(path).stem or f"task-{task.get('id', number)}"


def _label_of(name: str, label_map: LabelMap) -> int:
    if name not in label_map.names:
        raise ValueError(f"expected a label among {', '.join(label_map.names[:8])}, got {name!r}")
    return label_map.names.index(name)
