"""The section on trained students in use, from the JSON of `label_correction.py use`."""

from __future__ import annotations

import json
from typing import Any

from _evidence_frozen import class_changes
from _records import RESULTS
from _tables import origin, spread

TEXT = """### In use, by the one call

What `SegmentationCorrector` adds to the students of the sections on street scenes (Dice, 46 labels) and hearts (3
patients), as anybody would call it: EfficientNet-Lite0 by its name, the preset `fast`, all other settings as they are.
`augmented` is the mean over three sizes and, of street scenes, mirrored images. mIoU of evenly spread test images, 3
seeds; gains are over the plain supervised network of the same seed; fixed / broken and the worst class of the means are
against the student itself.

**The correction helps every student in every seed**, without augmentation and on top of it, breaks one label for 1.5 to
2.3 that it fixes, and costs no class more than half a point. On street scenes the supervised network gains 4.5 points
by both, and the student of corrected labels ends at the same 54.5: where the correction is there at inference, training
on it won nothing more. On hearts it did: 77.5 against 68.7.

More labels of the same drives would not bring the look-up much further: the frozen teacher above gains 4.0 points by
the anchors of 46 frames, and 5.1 by those of all 319 with their true labels. On held-out frames, whose drives the
anchors know, these gain 7.4.

`python benchmarks/label_correction.py use --data CamVid --every {every}` with the settings of the training, or
`--recipe acdc_3 --data ACDC --every 5`
"""


def in_use() -> str:
    """The tables; empty without records."""
    parts = []
    for name, title in (("", "Street scenes"), ("_acdc_3", "Hearts")):
        path = RESULTS / f"label_correction_use{name}.json"
        if path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
            found = [result for result in record["results"] if result["split"] == "test"]
            parts += [] if parts else [TEXT.format(**record["settings"])]
            parts += [f"{title}, {found[0]['images']} test images. {origin(record)}", "", table(found)]
    return "\n".join(parts)


def table(results: list[dict[str, Any]]) -> str:
    """A row for each student and way to use it."""
    plain = {
        each["seed"]: 100 * each["after"]
        for each in results
        if (each["method"], each["way"]) == ("supervised", "plain")
    }
    rows = [
        "| student | used | mIoU | gain | least of a seed | fixed / broken | worst class |",
        "|---|---|" + "--:|" * 5,
    ]
    for method in dict.fromkeys(result["method"] for result in results):
        for way in dict.fromkeys(result["way"] for result in results):
            found = [each for each in results if (each["method"], each["way"]) == (method, way)]
            after = [100 * each["after"] for each in found]
            gains = [value - plain[each["seed"]] for value, each in zip(after, found, strict=True)]
            fixed, broken = (sum(each[key] for each in found) for key in ("fixed", "broken"))
            cells = [method, way, spread(after), spread(gains, "+"), f"{min(gains):+.1f}"]
            cells += [f"{fixed / broken:.2f}", f"{min(class_changes(found)):+.1f}"] if broken else ["", ""]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"
