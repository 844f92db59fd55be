"""Draws the pictures of docs/visualization.md by running the page: `python docs/figures/pictures.py`."""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

import matplotlib.pyplot as plt
from readme_code import python_blocks

DOCS = Path(__file__).parents[1]
NAMES = ("embedding", "threshold_history", "prototype_history")  # in the page's order

if __name__ == "__main__":
    exec("\n".join(python_blocks(DOCS / "visualization.md")), {})
    for name, number in zip(NAMES, plt.get_fignums(), strict=True):
        plt.figure(number).savefig(DOCS / "images" / f"{name}.png", dpi=100)
