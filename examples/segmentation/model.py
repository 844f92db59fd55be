"""Network and refiner as one module, and what they make of an image with the labeled pixels at hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphcorrect import DualGraphRefiner, RefinedLabels, guided_upsample
from graphcorrect.nodes import grid_size, resize_maps
from segmentation.keys import LabeledPixels
from segmentation.networks import NetworkOutput, SegmentationNetwork, upsample


class SegmentationModel(nn.Module):
    """Network and refiner as one module, so that one teacher averages both and DDP wraps both."""

    def __init__(self, network: SegmentationNetwork, refiner: DualGraphRefiner):
        super().__init__()
        self.network, self.refiner = network, refiner

    def forward(
        self,
        images: Tensor,
        *,
        correct: bool = False,
        inside: Tensor | None = None,
        channels: list[Tensor] | None = None,
    ) -> tuple[NetworkOutput, RefinedLabels | None]:
        """The network's answer for images (B, 3, H, W), and with `correct` what the graphs make of it.

        `inside` (B, H, W) bool marks real pixels; what a view padded takes no part in the graphs. `channels` multiply
        the encoder's levels, see :class:`SegmentationNetwork`.
        """
        output = self.network(images, channels)
        return output, refine(self.refiner, output, inside=inside) if correct else None


def refine(
    refiner: DualGraphRefiner,
    output: NetworkOutput,
    *,
    inside: Tensor | None = None,
    anchors: LabeledPixels | None = None,
    keys: Tensor | None = None,
) -> RefinedLabels:
    """Run a refiner on what a network says; `anchors` are consulted first, by `keys` (B, M, h, w)."""
    mask = _mask_of(inside, output)
    return refiner(output.embedding, output.logits, mask=mask, anchors=anchors, anchor_features=keys)


def corrected_probabilities(
    correct: tuple[str, ...],
    refiner: DualGraphRefiner,
    output: NetworkOutput,
    images: Tensor,
    *,
    anchors: LabeledPixels | None = None,
    inside: Tensor | None = None,
    guided: bool = True,
) -> Tensor:
    """Class probabilities of every pixel of images (B, 3, H, W), (B, C, H, W), corrected.

    Args:
        correct: "anchors", "graphs" or both, as in :class:`Method`.
        refiner: its graphs, if they are asked for; and its node budget.
        output: what a network says of the images.
        anchors: labeled pixels, if they are asked for.
        inside: (B, H, W) bool, real pixels.
        guided: the edges of a map smaller than the images go where those have some, rather than interpolated.
    """
    bank = anchors if "anchors" in correct else None
    keys = None if bank is None else bank.keys(images, output)
    if "graphs" in correct:
        found = refine(refiner, output, inside=inside, anchors=bank, keys=keys).soft_labels
    else:
        found = _looked_up(bank, keys, output, _mask_of(inside, output), refiner.max_nodes)
    enlarged = upsample(found, images.shape[-2:])
    return guided_upsample(enlarged, images) if guided and enlarged is not found else enlarged


def _looked_up(
    anchors: LabeledPixels, keys: Tensor, output: NetworkOutput, mask: Tensor | None, max_nodes: int
) -> Tensor:
    """Probabilities (B, C, h, w) that anchors alone correct: on a grid, as in the refiner, whose changes are added."""
    probabilities = output.logits.to(torch.promote_types(output.logits.dtype, torch.float32)).softmax(1)
    size = probabilities.shape[-2:]
    grid = grid_size(*size, max_nodes)
    coarse = resize_maps(probabilities, grid, mask)
    after = anchors.correct(coarse, resize_maps(keys.to(coarse.dtype), grid, mask))
    if grid != tuple(size):
        after = (probabilities + F.interpolate(after - coarse, size=size, mode="bilinear")).clamp_min(0)
        after = after / after.sum(1, keepdim=True)
    return after if mask is None else torch.where(mask[:, None], after, probabilities)


def _mask_of(inside: Tensor | None, output: NetworkOutput) -> Tensor | None:
    """Real pixels at the resolution of the answer."""
    if inside is None:
        return None
    size = output.logits.shape[-2:]
    return F.interpolate(inside[:, None].float(), size=size, mode="nearest-exact")[:, 0] > 0
