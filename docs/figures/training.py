"""Draws docs/images/training.png from the JSON of the training studies: `python docs/figures/training.py`."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import matplotlib.pyplot as plt
from _evidence import renamed
from _figures import plain, save
from _records import RESULTS
from matplotlib.figure import Figure

STREETS, DIGITS = (RESULTS / f"label_correction_training{ending}.json" for ending in ("", "_digits"))
PANELS = (
    (STREETS, "student_miou", "street scenes, test"),
    (STREETS, "held_out_student_miou", "street scenes, held out"),
    (DIGITS, "student_miou", "digits, test"),
)


def draw() -> Figure:
    """The student's mIoU by method: a line a seed, since the methods of a seed share images, warm-up and batches."""
    figure, axes = plt.subplots(1, len(PANELS), figsize=(10, 3.2), layout="constrained")
    for axis, (source, score, title) in zip(axes, PANELS, strict=True):
        results = renamed(json.loads(source.read_text(encoding="utf-8")))["results"]
        methods = list(dict.fromkeys(result["method"] for result in results if score in result))
        for seed in sorted({result["seed"] for result in results}):
            own = [result for result in results if result["seed"] == seed and score in result]
            found = {result["method"]: 100 * result[score] for result in own}
            axis.plot(methods, [found[method] for method in methods], "o-", ms=6, lw=1, label=f"seed {seed}")
        axis.set_title(title, fontsize=10)
        axis.set_xticks(
            range(len(methods)), [method.replace("_", "\n").replace("+", "+\n") for method in methods], fontsize=9
        )
        axis.margins(x=0.15)
        plain(axis, "y")
    axes[0].set_ylabel("mIoU of the student, %")
    axes[-1].legend(frameon=False, loc="upper left")
    return figure


if __name__ == "__main__":
    save(draw(), "training", [STREETS, DIGITS])
