"""Draws docs/images/backends.png and backends_gpu.png from the results of benchmarks/knn_throughput.py on a CPU and on
a GPU: `python docs/figures/backends.py`.

The picture carries the checksum of the JSON that it shows, so that a test can tell when it is out of date.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import matplotlib.pyplot as plt
from _figures import plain, save
from _harness import Case
from _records import RESULTS
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

SOURCES = {
    "backends": RESULTS / "xeon-amx" / "knn_throughput.json",
    "backends_gpu": RESULTS / "h200" / "knn_throughput.json",
}
COLORS = ("#0072B2", "#E69F00", "#7A7A7A", "#009E73", "#CC79A7", "#56B4E9")


def draw(source: Path) -> Figure:
    """Time and peak memory of every side at every size: large dots are medians, small ones samples."""
    record = json.loads(source.read_text(encoding="utf-8"))
    cases = [Case(**case) for case in record["cases"]]
    sides = list(dict.fromkeys(side for case in cases for side in case.seconds))
    figure, (time, memory) = plt.subplots(1, 2, figsize=(10, 1 + 0.7 * len(cases)), layout="constrained")
    height = 0.6 / len(sides)
    for number, side in enumerate(sides):
        color, label = COLORS[number % len(COLORS)], side
        for place, case in enumerate(cases):
            y = place + (number - (len(sides) - 1) / 2) * height
            if side in case.seconds:
                milliseconds = [1e3 * second for second in case.seconds[side]]
                time.plot(milliseconds, [y] * len(milliseconds), "o", ms=3, color=color, alpha=0.6)
                time.plot(1e3 * case.median_seconds(side), y, "o", ms=8, color=color, label=label)
                label = None  # once in the legend
            if case.peak_bytes.get(side) is not None:
                memory.plot(case.peak_bytes[side] / 2**20, y, "o", ms=8, color=color)
    sizes = [f"{case.sizes['batch']} x {case.sizes['num_nodes']:,}" for case in cases]
    for axis, label in ((time, "milliseconds"), (memory, "peak memory above the inputs, MiB")):
        axis.set(xscale="log", xlabel=label, yticks=range(len(sizes)), yticklabels=sizes)
        low, high = axis.get_xlim()
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1, 3)))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
        axis.xaxis.set_minor_formatter("")
        axis.invert_yaxis()
        plain(axis, "x", "both")
        for place in range(1, len(sizes)):
            axis.axhline(place - 0.5, color="0.8", lw=0.8)
    time.set_ylabel("images x nodes")
    figure.legend(*time.get_legend_handles_labels(), loc="outside upper center", ncols=len(sides), frameon=False)
    return figure


if __name__ == "__main__":
    for name, source in SOURCES.items():
        save(draw(source), name, [source])
