"""Maps of the labels that a correction fixed and broke: the frames it helped most, the one in the middle, the worst."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from graphcorrect import metrics, plot


class Outcome(NamedTuple):
    """What a correction did to one image; labels are (H, W)."""

    fixed: int  # pixels
    broken: int
    before: Tensor
    after: Tensor
    truth: Tensor

    @property
    def net(self) -> int:
        """Pixels fixed less pixels broken."""
        return self.fixed - self.broken


class Outcomes:
    """Collects what a correction did to every image, and draws three rows of it."""

    def __init__(self) -> None:
        self.found: list[Outcome] = []

    def add(self, before: Tensor, after: Tensor, truth: Tensor) -> None:
        """Labels (H, W) of one image before and after correction, and the true ones."""
        counts = metrics.correction_counts(before, after, truth)
        small = (labels.to(torch.uint8) for labels in (before, after, truth))
        self.found.append(Outcome(int(counts.fixed), int(counts.broken), *small))

    def counts(self) -> list[list[int]]:
        """Pixels fixed and broken, by image."""
        return [[outcome.fixed, outcome.broken] for outcome in self.found]

    def draw(self, path: Path, columns: int = 4) -> None:
        """Without the photographs, which are not ours to show: a pixel of a picture is an outcome, never a color."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
        from matplotlib.patches import Patch

        ranked = sorted(self.found, key=lambda outcome: -outcome.net)
        columns = min(columns, len(ranked))
        middle = (len(ranked) - columns) // 2
        rows = {
            "helped most": ranked[:columns],
            "in the middle": ranked[middle : middle + columns],
            "helped least": ranked[-columns:],
        }
        figure, axes = plt.subplots(3, columns, figsize=(2.6 * columns, 6.4), layout="constrained", squeeze=False)
        for line, (title, chosen) in zip(axes, rows.items(), strict=True):
            for axis, outcome in zip(line, chosen, strict=True):
                plot.corrections(None, outcome.before, outcome.after, outcome.truth, legend=False, ax=axis)
                known = int((outcome.truth != 255).sum())
                axis.set_title(f"{title}: {100 * outcome.net / max(1, known):+.1f} % of its pixels", fontsize=8)
        colors = {"fixed": plot.FIXED, "broken (striped)": plot.BROKEN, "left wrong": plot.WRONG}
        colors["changed, truth unknown"] = plot.CHANGED
        handles = [Patch(color=[part / 255 for part in color], label=name) for name, color in colors.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
        figure.savefig(path, dpi=110)
        plt.close(figure)
