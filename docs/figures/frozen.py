"""Draws docs/images/frozen.png from the JSON of the frozen study: `python docs/figures/frozen.py`."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import matplotlib.pyplot as plt
from _evidence_frozen import class_changes
from _figures import plain, save
from _records import RESULTS
from matplotlib.figure import Figure

SOURCE = RESULTS / "label_correction_frozen.json"
FIXED, BROKEN, BLUE = "#009E73", "#D55E00", "#0072B2"


def draw() -> Figure:
    """On test frames: what each correction gains, what it fixes and breaks, and what `whole` does to each class."""
    record = json.loads(SOURCE.read_text(encoding="utf-8"))
    results = [result for result in record["results"] if result["split"] == "test"]
    sides = list(dict.fromkeys(result["side"] for result in results))
    figure, (gains, counts, classes) = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for place, side in enumerate(sides):
        found = [result for result in results if result["side"] == side]
        points = [100 * (result["after"] - result["before"]) for result in found]
        gains.plot(points, [place] * len(points), "o", ms=7, color=BLUE, alpha=0.7)
        for name, color, height in (("fixed", FIXED, -0.18), ("broken", BROKEN, 0.18)):
            share = [100 * result[name] / sum(pixels for *_, pixels in result["by_confidence"]) for result in found]
            label = name if place == 0 else None
            counts.barh(place + height, sum(share) / len(share), 0.32, color=color, label=label)
    whole = class_changes([result for result in results if result["side"] == "whole"])
    names = record["classes"]
    classes.barh(range(len(names)), whole, color=[FIXED if change >= 0 else BROKEN for change in whole])
    gains.set(yticks=range(len(sides)), yticklabels=sides, xlabel="gain in mIoU, points; a dot a seed")
    counts.set(yticks=range(len(sides)), yticklabels=[], xlabel="share of the pixels, %")
    classes.set(yticks=range(len(names)), yticklabels=names, xlabel="a class's IoU by `whole`, points")
    counts.legend(frameon=False)
    for axis, rows in ((gains, len(sides)), (counts, len(sides)), (classes, len(names))):
        axis.set_ylim(rows - 0.4, -0.6)
        axis.axvline(0, color="0.5", lw=0.8)
        plain(axis, "x")
    return figure


if __name__ == "__main__":
    save(draw(), "frozen", [SOURCE])
