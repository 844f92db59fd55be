"""The section of docs/evidence.md on wrong annotations, from the JSON of `label_issues.py` alone."""

from __future__ import annotations

import json
from typing import Any

from _records import RESULTS
from _tables import origin

CLEANLAB, IMAGES, FEATURES = "cleanlab", "label_issues", "label_issues, features"
NAMES = {
    "swapped": "regions of a similar class",
    "shifted": "contours beside the objects",
    "dropped": "objects left out",
    "random": "pixels and blobs of any class",
}
QUALITY = """## Wrong annotations

Labels of CamVid's test frames made wrong on purpose, and judged by `label_issues` and by cleanlab {cleanlab} on the
same predictions: connected regions renamed to a class that they could be taken for, contours displaced by a smooth
field, regions covered by what lies around them, and noise (half single pixels, half blobs); each until the share in the
second column of the labeled pixels is wrong. {images} frames are judged, evenly spread. The predictions are out of
sample: the frames are two contiguous halves, and a network that learned from the *wrong* labels of one judges the
other. It is a small decoder on a frozen EfficientNet-Lite0, {steps} steps of {batch} frames, and right on 63 to
84 % of the pixels; a better one finds more. `features` are the same encoder's, untrained, of the image and of one twice
its size, and no image's anchors come from its own half. Exponents and floors were chosen on training frames with a
tenth of the labels wrong; `error_rate` is 0.1 everywhere.

Average precision, the area under precision over recall of wrong pixels, in %; higher is better:

"""
CORRECTED = """
What corrections do, `error_rate` as it stands. Fixed: wrong labels that become right, in % of the wrong ones; broken:
right ones that become wrong, in % of the wrong ones too. mIoU of the labels with the truth. cleanlab corrects nothing:
its issues are given the network's class here. A network that has learned from many wrong labels is unsure of
everything, and then few are replaced: say so by `error_rate`. Where whole regions carry a similar class, or 5 % of the
pixels are wrong, so weak a network breaks enough rare pixels to cost mIoU: let a person look at `issues` instead.

"""
SPEED = """
Seconds and memory, images of 240 x 180 and 11 classes, one thread. cleanlab takes arrays of all images, `label_issues`
an image at a time; both give a mask and scores, ours corrected labels too. By default cleanlab starts processes for
every image; `n_jobs=1` starts none. Processor seconds are those of all processes: the machine was shared, and
seconds of the clock vary.

**Of 1,000 images cleanlab as it stands takes 68 times the processor time of `label_issues`, 16 times with images and
4.7 times with features of 304 entries**; with `n_jobs=1` 1.8, 0.42 and 0.12 times. Its memory grows with the images,
ours does not.

"""


def issues() -> list[str]:
    """The parts of the section; none where nothing has been measured."""
    parts = []
    path = RESULTS / "label_issues_quality.json"
    if path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
        settings = record["settings"]
        images = record["results"][0]["images"]
        text = QUALITY.format(images=images, **{key: settings[key] for key in ("cleanlab", "steps", "batch")})
        parts.append(text + _found(record) + CORRECTED + _corrected(record) + _source(record, " --data CamVid"))
    path = RESULTS / "label_issues_speed.json"
    if path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
        parts.append(SPEED + _speed(record) + _source(record, " --study speed"))
    return parts


def _groups(record: dict[str, Any]) -> dict[tuple[str, float], dict[str, dict[str, Any]]]:
    """By kind and rate, the results of each side."""
    groups: dict[tuple[str, float], dict[str, dict[str, Any]]] = {}
    results = sorted(record["results"], key=lambda each: (list(NAMES).index(each["kind"]), each["rate"]))
    for result in results:
        groups.setdefault((result["kind"], result["rate"]), {})[result["side"]] = result
    return groups


def _found(record: dict[str, Any]) -> str:
    rows = ["| wrong labels | % | cleanlab | `label_issues` | with features |", "|---|--:|--:|--:|--:|"]
    for (kind, _), sides in _groups(record).items():
        shown = [100 * sides[side]["average_precision"] for side in (CLEANLAB, IMAGES, FEATURES)]
        cells = [f"{value:.1f}" if value < max(shown) else f"**{value:.1f}**" for value in shown]
        rows.append(f"| {NAMES[kind]} | {100 * sides[CLEANLAB]['wrong']:.0f} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _corrected(record: dict[str, Any]) -> str:
    rows = [
        "| wrong labels | % | fixed / broken: cleanlab | `label_issues` | with features | mIoU before | cleanlab "
        "| `label_issues` | with features |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for (kind, _), sides in _groups(record).items():
        each = [sides[side] for side in (CLEANLAB, IMAGES, FEATURES)]
        moved = [f"{100 * side['fixed']:.0f} / {100 * side['broken']:.0f}" for side in each]
        scores = [each[0]["miou_before"], *(side["miou_after"] for side in each)]
        cells = [f"{100 * each[0]['wrong']:.0f}", *moved, *(f"{100 * score:.1f}" for score in scores)]
        rows.append(f"| {NAMES[kind]} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _speed(record: dict[str, Any]) -> str:
    rows = ["| | images | seconds | processor seconds | peak memory, MiB |", "|---|--:|--:|--:|--:|"]
    for result in sorted(record["results"], key=lambda each: each["side"]):
        figures = (result.get(key) for key in ("seconds", "processor_seconds", "peak_mib"))
        cells = ["failed" if figure is None else f"{figure:,.1f}" for figure in figures]
        rows.append(f"| {result['side']} | {result['images']:,} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _source(record: dict[str, Any], options: str) -> str:
    return f"\n`python benchmarks/label_issues.py{options}`; {origin(record)}\n"
