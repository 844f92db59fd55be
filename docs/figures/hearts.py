"""Draws docs/images/hearts.png from the JSON of the training study on ACDC: `python docs/figures/hearts.py`."""

import statistics
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import matplotlib.pyplot as plt
from _evidence_hearts import FADING, OTHER_CASES, PAPER, PATH, PUBLISHED, everything, results_of
from _figures import plain, save
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SHOWN = ("supervised", "self_training", "unimatch", "unimatch+anchors", "true_labels")


def draw() -> Figure:
    """Dice of the student by labeled patients; by method, a line a seed, beside the published rows; and by step."""
    figure, (first, left, right) = plt.subplots(1, 3, figsize=(13, 3.4), width_ratios=(2, 3, 2), layout="constrained")
    by_cases(first)
    results = everything()
    methods = list(dict.fromkeys(result["method"] for result in results))
    for seed in sorted({result["seed"] for result in results}):
        own = {result["method"]: 100 * result["student_dice"] for result in results if result["seed"] == seed}
        found = [method for method in methods if method in own]
        left.plot(found, [own[method] for method in found], "o-", ms=6, lw=1, label=f"seed {seed}")
    for name, value in PUBLISHED[3].items():
        if name != "UA-MT":  # level with CPS
            left.axhline(value, color="0.6", lw=0.8, ls=":")
            left.text(len(methods) - 0.8, value, f"published {name}", fontsize=7, color="0.4", va="bottom", ha="right")
    left.set_xticks(
        range(len(methods)), [method.replace("_", "\n").replace("+", "\n+") for method in methods], fontsize=8
    )
    left.set_ylabel("test Dice of the student, %")
    left.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 0.12), fontsize=8)
    for method in methods:
        tests = [result["history"] for result in results if result["method"] == method]
        steps = [each["step"] for each in tests[0]]
        means = [statistics.mean(100 * each[place]["student_dice"] for each in tests) for place in range(len(steps))]
        right.plot(steps, means, "o-", ms=4, lw=1.2, label=method)
    right.set_xlabel("step")
    right.set_ylabel("mean over seeds")
    right.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    for axis in (first, left, right):
        plain(axis, "y")
    return figure


def by_cases(axis: Axes) -> None:
    """Mean over seeds by the number of labeled patients, a line a method, and the published rows."""
    records = {1: results_of(OTHER_CASES[1]), 3: everything(), 7: results_of(OTHER_CASES[7])}
    for method in SHOWN:
        found = {
            cases: [100 * result["student_dice"] for result in results if result["method"] == method]
            for cases, results in records.items()
        }
        means = [statistics.mean(values) for values in found.values()]
        axis.plot(range(len(found)), means, "o-", ms=5, lw=1.4, label=method)
    for name in ("supervised", "UniMatch"):
        values = [PUBLISHED[cases][name] for cases in records]
        axis.plot(range(len(values)), values, "x:", color="0.6", ms=4, lw=0.8, label=f"published {name}")
    axis.set_xticks(range(len(records)), [str(cases) for cases in records])
    axis.set_xlabel("labeled patients")
    axis.set_ylabel("test Dice of the student, %")
    axis.legend(fontsize=7, loc="lower right", framealpha=0.85, edgecolor="none")


if __name__ == "__main__":
    save(draw(), "hearts", [PATH, FADING, PAPER, *OTHER_CASES.values()])
