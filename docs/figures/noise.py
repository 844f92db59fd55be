"""Draws docs/images/noise.png from the JSON of the noise study: `python docs/figures/noise.py`."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import matplotlib.pyplot as plt
from _figures import plain, save
from _records import RESULTS
from matplotlib.figure import Figure

SOURCE = RESULTS / "label_correction_noise.json"
OURS = {"paper": ("refiner, paper", "#0072B2"), "cautious": ("refiner, cautious", "#009E73")}


def draw() -> Figure:
    """Right labels over wrong ones: a row of panels a problem, a column a kind of noise."""
    results = json.loads(SOURCE.read_text(encoding="utf-8"))["results"]
    problems, kinds = (list(dict.fromkeys(result[key] for result in results)) for key in ("problem", "kind"))
    figure, panels = plt.subplots(
        len(problems), len(kinds), figsize=(10, 2.9 * len(problems)), layout="constrained", sharex=True, squeeze=False
    )
    for row, problem in zip(panels, problems, strict=True):
        for axis, kind in zip(row, kinds, strict=True):
            found = [result for result in results if (result["problem"], result["kind"]) == (problem, kind)]
            wrong = [100 * result["rate"] for result in found]
            peers = [
                max(side["right"] for name, side in result["sides"].items() if not name.startswith("refiner"))
                for result in found
            ]
            axis.plot(wrong, [100 * result["before"] for result in found], ":", color="0.4", label="as given")
            axis.plot(wrong, [100 * best for best in peers], "o-", ms=4, color="#D55E00", label="best of 11 peers")
            for label, (name, color) in OURS.items():
                right = [100 * result["sides"][name]["right"] for result in found]
                axis.plot(wrong, right, "o-", ms=4, color=color, label=label)
            axis.set_title(f"{problem}, {kind}", fontsize=10)
            plain(axis)
    for axis in panels[-1]:
        axis.set_xlabel("labels made wrong, %")
    for axis in panels[:, 0]:
        axis.set_ylabel("labels right, %")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return figure


if __name__ == "__main__":
    save(draw(), "noise", [SOURCE])
