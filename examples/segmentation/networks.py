"""The networks: DeepLabV3+, DeepLabV2, SegFormer, U-Net, each with two heads, classes and an embedding for graphs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphcorrect.files.faults import words
from segmentation import unet
from segmentation.backbones import LITE0, input_statistics, is_known, lite0_weights
from segmentation.recipe import Network
from segmentation.weights import load_encoder_weights


class NetworkOutput(NamedTuple):
    """What the network says of a batch of images (B, 3, H, W); h = ceil(H / s), w = ceil(W / s), s its stride.

    Attributes:
        logits: (B, C, h, w).
        embedding: (B, D, h, w), any scale: the features of the two graphs.
        middle: (B, M, ceil(H / 4), ceil(W / 4)), no gradient: the encoder's second to fourth level, each a unit vector
            a pixel: keys for `AnchorBank`. The middle of a network has not memorized the labeled pixels; its head has.
            And what is thin is found at 1/4 only. None while the network is trained, as nobody looks anything up then.
    """

    logits: Tensor
    embedding: Tensor
    middle: Tensor | None


LEAST_STD = 1e-3  # of an image of one color


class SegmentationNetwork(nn.Module):
    """An encoder, the decoder of one of four architectures, and two heads on the decoder's map.

    - `deeplabv3plus` (Chen et al., 2018): atrous pyramid at the encoder's stride, joined with the level at 1/4.
    - `deeplabv2` (Chen et al., 2017): the encoder dilated to stride 8; the classifier is the sum of dilated 3x3
      convolutions, one for each of the `atrous_rates`; no decoder.
    - `segformer` (Xie et al., 2021): all four levels, projected, enlarged to 1/4 and fused.
    - `unet` (Ronneberger et al., 2015): MONAI's, from random weights; its map has the size of the image.

    Args:
        num_classes: entries of the class head; `settings.feature_dim` are those of the embedding.
        settings: the recipe's section.

    Shapes:
        images (B, 3, H, W) in [0, 1], RGB, any H and W -> :class:`NetworkOutput`; `channels`, if given, are what the
        channels of the encoder's levels are multiplied by before the decoder sees them: (B, M) for each of `widths`.
    """

    def __init__(self, num_classes: int, settings: Network):
        super().__init__()
        self.encoder, self.decoder, width, self.stride, self.multiple = _body(settings)
        self.first = 0 if settings.architecture == "unet" else 1  # level of features; level 0 of others is the image
        from_scratch = settings.weights == "none" or (settings.architecture == "unet" and settings.weights == "auto")
        if not from_scratch and not _from_hub(settings):
            file = lite0_weights() if settings.weights == "auto" else Path(settings.weights)
            load_encoder_weights(self.encoder, file)
        if settings.architecture == "deeplabv2":
            self.classifier: nn.Module = AtrousSum(width, num_classes, settings.atrous_rates)
        else:
            self.classifier = nn.Conv2d(width, num_classes, kernel_size=1)
        self.embedder = nn.Conv2d(width, settings.feature_dim, kernel_size=1)
        mean, std = input_statistics(None if settings.architecture == "unet" else settings.backbone)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.statistics = settings.statistics
        self.middle_dim = sum(self.encoder.out_channels[2:5])

    def forward(self, images: Tensor, channels: list[Tensor] | None = None) -> NetworkOutput:
        height, width = images.shape[-2:]
        levels = self.encode(images)
        if channels is not None:
            pairs = zip(levels[self.first :], channels, strict=True)
            levels = [*levels[: self.first], *(level * factor[..., None, None] for level, factor in pairs)]
        decoded = self.decoder(levels)
        rows, columns = -(-height // self.stride), -(-width // self.stride)
        logits, embedding = (head(decoded)[..., :rows, :columns] for head in (self.classifier, self.embedder))
        middle = None if self.training else torch.cat(self.on_fine_grid(levels[2:5], (height, width)), dim=1)
        return NetworkOutput(logits, embedding, middle)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the encoder's levels, the image apart."""
        return tuple(self.encoder.out_channels[self.first :])

    def encode(self, images: Tensor) -> list[Tensor]:
        """The encoder's levels, of images padded to whole strides, which decoders need.

        Zeros after normalization are the mean color; what they produce is for the caller to cut off.
        """
        height, width = images.shape[-2:]
        padding = (0, -width % self.multiple, 0, -height % self.multiple)
        mean, std = self.mean, self.std
        if self.statistics == "image":
            std, mean = torch.std_mean(images, (1, 2, 3), keepdim=True)
        return self.encoder(F.pad((images - mean) / std.clamp_min(LEAST_STD), padding))

    def on_fine_grid(self, levels: list[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """Levels of `encode`, at 1/4 or coarser, as unit vectors a pixel, (B, ..., ceil(H / 4), ceil(W / 4)).

        `size` is that of the images, (H, W). No gradient passes.
        """
        padded = tuple((side + -side % self.multiple) // 4 for side in size)
        rows, columns = (-(-side // 4) for side in size)
        units = (upsample(F.normalize(level.detach(), dim=1), padded) for level in levels)
        return [level[..., :rows, :columns] for level in units]

    def parameter_groups(self, learning_rate: float, head_factor: float = 10.0) -> list[dict]:
        """Two groups for an optimizer: the pretrained encoder, and everything new at `head_factor` times its rate."""
        encoder = list(self.encoder.parameters())
        new = [*self.decoder.parameters(), *self.classifier.parameters(), *self.embedder.parameters()]
        return [{"params": encoder, "lr": learning_rate}, {"params": new, "lr": learning_rate * head_factor}]


class AtrousSum(nn.Module):
    """The classifier of DeepLabV2: the sum of parallel 3x3 convolutions of different dilation, (B, M, h, w) -> C."""

    def __init__(self, in_channels: int, out_channels: int, rates: tuple[int, ...]):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=rate, dilation=rate) for rate in rates
        )
        for branch in self.branches:
            nn.init.normal_(branch.weight, std=0.01)
            nn.init.zeros_(branch.bias)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.stack([branch(maps) for branch in self.branches]).sum(0)


class LastLevel(nn.Module):
    """No decoder: the encoder's last level as it is."""

    def forward(self, levels: list[Tensor]) -> Tensor:
        return levels[-1]


def _from_hub(settings: Network) -> bool:
    return settings.weights == "auto" and settings.backbone != LITE0 and settings.architecture != "unet"


def _body(settings: Network) -> tuple[nn.Module, nn.Module, int, int, int]:
    """Encoder, decoder, width and stride of the decoder's map, and what the sides of an image must be a multiple of."""
    backbone = settings.backbone
    if settings.architecture == "unet":
        return *unet.parts(settings.width, settings.dropout), settings.width, 1, 16
    if not is_known(backbone):
        raise ValueError(f"expected `network.backbone` known to smp or (tu-...) timm, got {backbone!r}")
    # For timm's encoders smp asks for True, for its own for the name of the weights.
    hub_weights = (backbone.startswith("tu-") or "imagenet") if _from_hub(settings) else None
    try:
        if settings.architecture == "deeplabv2":
            encoder = smp.encoders.get_encoder(backbone, depth=5, output_stride=8, weights=hub_weights)
            return encoder, LastLevel(), encoder.out_channels[-1], 8, 8
        if settings.architecture == "segformer":
            base = smp.Segformer(
                backbone, encoder_weights=hub_weights, decoder_segmentation_channels=settings.decoder_channels
            )
            return base.encoder, base.decoder, settings.decoder_channels, 4, 32
        base = smp.DeepLabV3Plus(
            backbone,
            encoder_weights=hub_weights,
            encoder_depth=settings.encoder_depth,
            encoder_output_stride=settings.stride,
            decoder_channels=settings.decoder_channels,
            decoder_atrous_rates=settings.atrous_rates,
            decoder_aspp_dropout=settings.dropout,
        )
        return base.encoder, base.decoder, settings.decoder_channels, 4, 16
    except Exception as error:  # of smp, timm, the hub and the network connection, each with types of its own
        if hub_weights is None:
            raise ValueError(
                f"expected `network.backbone` that can be an encoder of {settings.architecture}, got {backbone!r}: "
                f"{words(error)}"
            ) from error
        raise ValueError(
            f"no weights of `network.backbone` {backbone!r} could be fetched; "
            f"give `network.weights` a file or 'none' ({words(error)})"
        ) from error


Size = tuple[int, int]


def cell_of(grid: Size, size: Size) -> int:
    """How many pixels wide the cells of a grid (h, w) of images (H, W) are: a power of two, as all strides are."""
    widest = max(-(-side // cells) for side, cells in zip(size, grid, strict=True))
    return 1 << (widest - 1).bit_length()


def overhang(grid: Size, size: Size, of: Size | None = None) -> Sequence[int]:
    """What `F.pad` adds to images (H, W), or to their labels of size `of`, where the last cells hang over the edge.

    An even division of the sides then makes the cells of the grid; without it labels would lie beside what saw them.
    """
    cell, parts = cell_of(grid, size), zip(of or size, grid, size, strict=True)
    rows, columns = (round(labels * cells * cell / side) - labels for labels, cells, side in parts)
    return 0, columns, 0, rows


def upsample(maps: Tensor, size: Size) -> Tensor:
    """Maps (B, C, h, w) to the pixels of their images, (B, C, H, W), cell centers kept in place."""
    factor = cell_of(maps.shape[-2:], size)
    if factor == 1:
        return maps
    # The last cell may hang over the edge of the image: enlarge by the whole factor, then cut.
    enlarged = F.interpolate(maps, scale_factor=float(factor), mode="bilinear", align_corners=False)
    return enlarged[..., : size[0], : size[1]]
