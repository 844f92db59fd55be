"""The section on large images and coarse answers, from the JSON of `label_correction.py grids`."""

from __future__ import annotations

import json

from _evidence_frozen import gain_and_ratio
from _records import RESULTS
from _tables import origin

TEXT = """### Large images, and networks that answer coarsely

A graph has 4,096 nodes at most, so that in a large image its cells are many pixels wide. Labeled pixels are looked up
on the grid of their keys all the same, a quarter of the image. Here the nodes of small images are cut down instead:
170 of them have cells of 16 pixels, as 4,096 have in an image of 1,180 x 880. `keys averaged` looks up on the grid of
the graphs, as earlier versions did. And a network that answers at 1/{stride} (the same one, averaged): its scores are
enlarged to the grid of the keys first, as {{class}}`graphcorrect.SegmentationCorrector` does, or stay on their own.

`python benchmarks/label_correction.py grids --data CamVid --seeds 0 --every {every}`
"""


def grids() -> str:
    """The table; empty without a record."""
    path = RESULTS / "label_correction_grids.json"
    if not path.is_file():
        return ""
    record = json.loads(path.read_text(encoding="utf-8"))
    splits = {"held_out": "held-out", "test": "test"}
    found = {(result["split"], result["side"]): result for result in record["results"]}
    counts = {split: next(each["images"] for each in record["results"] if each["split"] == split) for split in splits}
    heads = (f"{counts[split]} {name} frames | gain | fixed / broken" for split, name in splits.items())
    rows = [f"| | {' | '.join(heads)} |", "|---" + "|--:" * 6 + "|"]
    for side in dict.fromkeys(result["side"] for result in record["results"]):
        cells = [side]
        for split in splits:
            result = found[split, side]
            cells += [f"{100 * result['before']:.1f} to {100 * result['after']:.1f}", *gain_and_ratio([result])]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([TEXT.format(**record["settings"]), *rows, "", origin(record), ""])
