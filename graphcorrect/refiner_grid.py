"""Images on the grid of a refiner's graphs, and the way back to full resolution."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from graphcorrect.banks.anchors import AnchorBank
from graphcorrect.nodes import grid_size, image_to_nodes, nodes_to_image, pool_mask, resize_maps
from graphcorrect.ops.values import widen


class Grid(NamedTuple):
    """What graphs see of a batch of images, and what their correction is added to.

    Attributes:
        features: (B, D, h, w).
        coarse: (B, C, h, w), the network's probabilities.
        start: (B, C, h, w), these as anchors have moved them; None without anchors.
        mask: (B, h * w) bool, or None.
        probabilities: (B, C, H, W), the network's at full resolution.
        whole: (B, C, H, W), these, with what anchors have moved on a grid finer than that of the graphs.
        before: (B, C, h, w), what the graphs' correction is measured from.
        full_mask: (B, H, W) bool, or None.
    """

    features: Tensor
    coarse: Tensor
    start: Tensor | None
    mask: Tensor | None
    probabilities: Tensor
    whole: Tensor
    before: Tensor
    full_mask: Tensor | None

    def nodes(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Features, probabilities, start and mask of the cells, as rows."""
        start = None if self.start is None else image_to_nodes(self.start)
        return image_to_nodes(self.features), image_to_nodes(self.coarse), start, self.mask

    def maps(self, nodes: Tensor) -> Tensor:
        """Rows of the cells as maps (B, D, h, w)."""
        return nodes_to_image(nodes, (self.coarse.shape[-2], self.coarse.shape[-1]))

    def full_size(self, refined: Tensor) -> Tensor:
        """Corrected rows (B, h * w, C) as probabilities (B, C, H, W): what has changed is interpolated and added."""
        refined = self.maps(refined)
        if refined.shape == self.whole.shape:
            return refined
        # A change sums to zero over the classes, so that what is left after clamping sums to one at least
        total = _with_change(self.whole, self.before, refined).clamp_min(0.0)
        total = total / total.sum(1, keepdim=True)
        return total if self.full_mask is None else torch.where(self.full_mask[:, None], total, self.probabilities)


def to_grid(
    features: Tensor,
    probabilities: Tensor,
    mask: Tensor | None,
    anchors: AnchorBank | None,
    keys: Tensor,
    max_nodes: int,
) -> Grid:
    """Brings images to a grid of at most `max_nodes` cells, and looks them up.

    The look-up takes the grid of the keys where it is the finer one, up to that of the probabilities: a thin thing has
    no cell of its own on the graphs' grid.

    Args:
        features: (B, D, h', w').
        probabilities: (B, C, H, W).
        mask: (B, H, W) bool, or None.
        anchors: labeled nodes, or None.
        keys: (B, E, h'', w''), what is looked up among them.
        max_nodes: of a graph.
    """
    coarser = _coarser(features, probabilities)
    size = grid_size(coarser.shape[-2], coarser.shape[-1], max_nodes)
    coarse = resize_maps(probabilities, size, mask)
    grid = Grid(
        features=resize_maps(features, size, mask),
        coarse=coarse,
        start=None,
        mask=None if mask is None else pool_mask(mask, size).flatten(1),
        probabilities=probabilities,
        whole=probabilities,
        before=coarse,
        full_mask=mask,
    )
    if anchors is None:
        return grid
    height, width = _coarser(keys, probabilities).shape[-2:]
    if height * width <= size[0] * size[1]:
        return grid._replace(start=anchors.correct(coarse, resize_maps(widen(keys), size, mask)))
    fine_size = (height, width)
    fine = resize_maps(probabilities, fine_size, mask)
    found = anchors.correct(fine, resize_maps(widen(keys), fine_size, mask))
    if mask is not None:  # what is not finite outside it would be interpolated into it
        found = torch.where(pool_mask(mask, fine_size)[:, None], found, fine)
    start = resize_maps(found, size, mask)
    if mask is not None:  # a finer cell within it may overlap one outside it, where nothing is to change
        start = torch.where(pool_mask(mask, size)[:, None], start, coarse)
    return grid._replace(start=start, before=start, whole=_with_change(probabilities, fine, found))


def _coarser(first: Tensor, second: Tensor) -> Tensor:
    # No min(key=...): torch 2.13 compiles none
    return first if first.shape[-2:].numel() <= second.shape[-2:].numel() else second


def _with_change(maps: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Maps (B, C, H, W) and `after` less `before` (B, C, h, w); exactly `after` on a grid of that size."""
    size = maps.shape[-2:]
    return after if after.shape[-2:] == size else maps + F.interpolate(after - before, size=size, mode="bilinear")
