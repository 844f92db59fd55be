"""Labeled pixels to look up, and what they are looked up by."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphcorrect import AnchorBank
from segmentation.networks import NetworkOutput, SegmentationNetwork


class KeyEncoder(nn.Module):
    """Keys of an encoder as it was before anything was learned here, which looks at images in several sizes.

    An encoder that is trained on few images knows them by heart; what the published weights see is as true of images
    from elsewhere (docs/evidence.md).

    Args:
        network: whose encoder is copied, as it is now.
        levels: of the encoder, the one at 1/2 being the first.
        magnifications: sizes of the image; what is thin is found in a larger one.

    Shapes:
        images (B, 3, H, W) in [0, 1] -> (B, `dim`, ceil(H / 4), ceil(W / 4)), unit vectors a level and magnification
    """

    def __init__(self, network: SegmentationNetwork, levels: tuple[int, ...], magnifications: tuple[float, ...]):
        super().__init__()
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.levels, self.magnifications = levels, magnifications
        self.dim = len(magnifications) * sum(network.encoder.out_channels[level] for level in levels)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        size = [-(-side // 4) for side in images.shape[-2:]]
        blocks = []
        for factor in self.magnifications:
            larger = images
            if factor != 1:
                larger = F.interpolate(images, scale_factor=factor, mode="bicubic").clamp(0, 1)
            found = self.network.encode(larger)
            for level in self.network.on_fine_grid([found[number] for number in self.levels], larger.shape[-2:]):
                on_grid = level if factor == 1 else F.interpolate(level, size=size, mode="bilinear", antialias=True)
                blocks.append(F.normalize(on_grid, dim=1))
        return torch.cat(blocks, dim=1)


class LabeledPixels(AnchorBank):
    """An anchor bank with its keys: those of a `KeyEncoder`, or without one those of the network that answers.

    No checkpoint holds the encoder, which is built anew from the weights that the recipe names.
    """

    def __init__(self, num_classes: int, key_dim: int, *, encoder: KeyEncoder | None = None, **settings: Any):
        super().__init__(num_classes, key_dim, **settings)
        self._encoder = (encoder,)  # in a tuple: no part of this module

    @property
    def has_key_encoder(self) -> bool:
        """Whether keys need no answer of a network."""
        return self._encoder[0] is not None

    def keys(self, images: Tensor, output: NetworkOutput | None) -> Tensor:
        """Keys (B, M, h, w) of images (B, 3, H, W), of which a network says `output`."""
        return self._encoder[0](images) if self.has_key_encoder else output.middle

    def fresh(self) -> LabeledPixels:
        """One that looks at images in the same way and has seen none yet."""
        settings = {"capacity_per_class": self.capacity_per_class, "decay": self.decay}
        return LabeledPixels(self.num_classes, self.feature_dim, encoder=self._encoder[0], **settings).to(self.features)
