"""Network and refiner as one module, and what they make of an image with the labeled pixels at hand."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from graphcorrect import DualGraphRefiner, RefinedLabels, guided_upsample
from segmentation.keys import LabeledPixels
from segmentation.networks import NetworkOutput, SegmentationNetwork, overhang, upsample


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
    places: Tensor | None = None,
    guided: bool = True,
) -> Tensor:
    """Class probabilities of every pixel of images (B, 3, H, W), (B, C, H, W), corrected.

    Args:
        correct: "anchors", "graphs" or both, as in :class:`Method`.
        refiner: its graphs, if they are asked for; and its node budget.
        output: what a network says of the images.
        anchors: labeled pixels, if they are asked for.
        inside: (B, H, W) bool, real pixels.
        places: (B, 4), where in their images these lie, see `WeakView`; None: they are whole.
        guided: the edges of a map smaller than the images go where those have some, rather than interpolated.
    """
    bank = anchors if "anchors" in correct else None
    keys = None if bank is None else bank.keys(images, output, places)
    if "graphs" not in correct:  # the grid, the mask and the way back to full size are the refiner's all the same
        refiner = DualGraphRefiner(refiner.num_classes, refiner.feature_dim, num_rounds=0, max_nodes=refiner.max_nodes)
        refiner = refiner.to(images.device)
    found = refine(refiner, output, inside=inside, anchors=bank, keys=keys).soft_labels
    enlarged = upsample(found, images.shape[-2:])
    return guided_upsample(enlarged, images) if guided and enlarged is not found else enlarged


def _mask_of(inside: Tensor | None, output: NetworkOutput) -> Tensor | None:
    """Real pixels at the resolution of the answer."""
    if inside is None:
        return None
    size = output.logits.shape[-2:]
    whole = F.pad(inside[:, None].float(), overhang(size, inside.shape[-2:]), mode="replicate")
    return F.interpolate(whole, size=size, mode="nearest-exact")[:, 0] > 0
