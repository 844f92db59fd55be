"""Draws docs/images/scaling.png from what benchmarks/scaling.py measured: `python docs/figures/scaling.py`.

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
from scaling import LINEAR, fits

SOURCE = RESULTS / "xeon-amx" / "scaling.json"
COLORS = ("#0072B2", "#E69F00", "#009E73")


def draw() -> Figure:
    """Time and peak memory over the nodes, both axes logarithmic; the legend gives the exponents."""
    cases = [Case(**case) for case in json.loads(SOURCE.read_text(encoding="utf-8"))["cases"]]
    timed = [case for case in cases if case.seconds]
    nodes = [case.sizes["num_nodes"] for case in timed]
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for name, color in zip(LINEAR, COLORS, strict=True):
        fitted = fits(cases, name)
        milliseconds = [1e3 * case.median_seconds(name) for case in timed]
        memory = [(case.peak_bytes[name] or 0) / 2**20 for case in timed]
        for axis, amounts, what in zip(axes, (milliseconds, memory), ("time", "memory"), strict=True):
            axis.plot(nodes, amounts, "o-", color=color, label=f"{name}, exponent {fitted[what][0]:.2f}")
    for axis, label in zip(axes, ("milliseconds", "peak memory above the inputs, MiB"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="nodes", ylabel=label)
        plain(axis, which="both")
        axis.legend(frameon=False)
    return figure


if __name__ == "__main__":
    save(draw(), "scaling", [SOURCE])
