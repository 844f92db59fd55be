"""Labeled pixels to look up, and what they are looked up by."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphcorrect import AnchorBank, keys
from graphcorrect.encoders import PREFIX, key_encoder
from graphcorrect.keys import POSITION_DIM, position_keys, whole_image
from segmentation.backbones import LITE0, lite0_weights
from segmentation.networks import NetworkOutput, SegmentationNetwork

MAX_PIXELS = 2**40  # what fits is the recipe's affair
SETTINGS = ("capacity_per_class", "num_neighbors", "temperature", "strength", "eps", "balance", "decay",
            "quota_per_image", "key_dim", "skip_certain")  # fmt: skip


class Levels(nn.Module):
    """Levels of a network's encoder, at 1/4 of images (B, 3, H, W)."""

    def __init__(self, network: SegmentationNetwork, levels: tuple[int, ...]):
        super().__init__()
        self.network, self.levels = network, levels

    def forward(self, images: Tensor) -> list[Tensor]:
        found = self.network.encode(images)
        return self.network.on_fine_grid([found[number] for number in self.levels], images.shape[-2:])


class KeyEncoder(keys.KeyEncoder):
    """Keys of a network's encoder as it was before anything was learned here.

    Args:
        network: whose encoder is copied, as it is now.
        levels: of the encoder, the one at 1/2 being the first.
        magnifications: sizes of the image; what is thin is found in a larger one.
    """

    def __init__(self, network: SegmentationNetwork, levels: tuple[int, ...], magnifications: tuple[float, ...]):
        of_network = Levels(network, levels)  # which pads images to what its strides need
        every = range(len(levels))
        super().__init__(of_network, levels=every, magnifications=magnifications, multiple=4, max_pixels=MAX_PIXELS)
        self.dim = len(magnifications) * sum(network.encoder.out_channels[level] for level in levels)


def pretrained_keys(
    name: str, levels: tuple[int, ...] | None, magnifications: tuple[float, ...]
) -> tuple[keys.KeyEncoder, int]:
    """Keys, and how many entries each has, of an encoder of timm that nothing is learned by, not even by the network.

    Args:
        name: as timm knows it; Lite0's weights are those of its package, others the hub's.
        levels: of the encoder, the one at 1/2 being the first; None: those at 1/8 and 1/16.
        magnifications: sizes of the image.
    """
    weights = lite0_weights() if f"tu-{name}" == LITE0 else None
    found = key_encoder(
        PREFIX + name,
        levels=levels and [level - 1 for level in levels],
        weights=weights,
        magnifications=magnifications,
        max_pixels=MAX_PIXELS,
    )
    return found, len(magnifications) * sum(found.encoder.dims)


class LabeledPixels(AnchorBank):
    """An anchor bank with its keys: those of a `KeyEncoder`, or without one those of the network that answers.

    No checkpoint holds the encoder, which is built anew from the weights that the recipe names.

    Args:
        num_classes: C.
        width: entries of a key, those of `position` apart.
        encoder: what keys are made by.
        parts: without an encoder, the first and last channel of each part of `NetworkOutput.middle` that is a key.
        position: weight of four entries that say where in its image a cell lies; 0 leaves them out.
        settings: of the bank.
    """

    def __init__(
        self,
        num_classes: int,
        width: int,
        *,
        encoder: keys.KeyEncoder | None = None,
        parts: tuple[tuple[int, int], ...] | None = None,
        position: float = 0.0,
        **settings: Any,
    ):
        super().__init__(num_classes, width + (POSITION_DIM if position else 0), **settings)
        self._encoder = (encoder,)  # in a tuple: no part of this module
        self.parts, self.position = parts, position

    @property
    def has_key_encoder(self) -> bool:
        """Whether keys need no answer of a network."""
        return self._encoder[0] is not None

    def keys(self, images: Tensor, output: NetworkOutput | None, places: Tensor | None = None) -> Tensor:
        """Keys (B, M, h, w) of images (B, 3, H, W), of which a network says `output`.

        `places` (B, 4) are those of :class:`WeakView`; None: the images are whole.
        """
        if self.has_key_encoder:
            found = self._encoder[0](images)
        elif self.parts is None:
            found = output.middle
        else:
            found = torch.cat([output.middle[:, first:last] for first, last in self.parts], dim=1)
        if not self.position:
            return found
        if places is None:
            places = images.new_tensor(whole_image(*images.shape[-2:])).expand(len(images), 4)
        return torch.cat([found, self.position * position_keys(places.to(found), found.shape[-2:])], dim=1)

    def fresh(self) -> LabeledPixels:
        """One that looks at images in the same way and has seen none yet."""
        settings = {name: getattr(self, name) for name in SETTINGS}
        width = self.feature_dim - (POSITION_DIM if self.position else 0)
        settings |= {"encoder": self._encoder[0], "parts": self.parts, "position": self.position}
        return LabeledPixels(self.num_classes, width, **settings).to(self.features)
