"""What labeled pixels are looked up by: an encoder's maps of the image at several sizes, on one grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphcorrect import _checks
from graphcorrect._copies import copy_of
from graphcorrect._settings import printed
from graphcorrect.ops.values import widen

Maps = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
POSITION_DIM, TURN = 4, 1.5  # radians from the middle of an image to the end of its longer side
STRIDE = 4  # of the grid of keys: what is four pixels wide is kept
MIDDLE_STRIDES = (8, 16)  # whose maps tell classes apart and have not memorized the labels


def middle_levels(strides: Sequence[int]) -> list[int]:
    """Which of an encoder's levels make keys: those at 1/8 and 1/16, all if there are none; of many the middle two.

    Example:
        >>> middle_levels([2, 4, 8, 16, 32])
        [2, 3]
    """
    found = [number for number, stride in enumerate(strides) if stride in MIDDLE_STRIDES] or list(range(len(strides)))
    first = (len(found) - 1) // 2
    return found if len(found) <= 2 else found[first : first + 2]


class KeyEncoder(nn.Module):
    """Keys of pixels: levels of an encoder that looks at the image in several sizes, unit vectors each, side by side.

    What is thin is found in an enlarged image. The best encoder is one that was not trained on the labeled images: one
    that was knows them by heart, and what it says of them is not true of others.

    Args:
        encoder: a module, which is copied as it is now, since the keys of a bank must not move; or any callable. It
            turns images (B, 3, H, W) in [0, 1] into a map (B, D, h, w), or a list or mapping of such.
        levels: which maps of a list to take; None takes those at 1/8 and 1/16 of the image, all if there are none, and
            of more than two the two in the middle.
        magnifications: sizes at which the image is looked at; 1 is its own.
        stride: of the grid; 4 keeps what is four pixels wide.
        multiple: images are padded to a multiple of it, so that the cells of all levels line up; one of `stride`.
        max_pixels: an image is not enlarged beyond it, and made smaller if it has more; what bounds the memory.
        position: weight, beside a level's one, of four entries that say where in the image a pixel lies; above 0 where
            images lie alike, as scans of one organ do.

    Shapes:
        images (B, 3, H, W) in [0, 1] -> (B, M, ceil(H / stride), ceil(W / stride)) float32 or better

    Example:
        >>> encoder = KeyEncoder(torch.nn.Conv2d(3, 5, 8, stride=8), magnifications=(1.0, 2.0))
        >>> encoder(torch.rand(1, 3, 30, 40)).shape
        torch.Size([1, 10, 8, 10])
    """

    def __init__(
        self,
        encoder: Callable[[Tensor], Maps],
        *,
        levels: Sequence[int] | None = None,
        magnifications: Sequence[float] = (1.0, 2.0, 3.0),
        stride: int = STRIDE,
        multiple: int = 32,
        max_pixels: int = 2**22,
        position: float = 0.0,
    ) -> None:
        super().__init__()
        if not callable(encoder):
            raise TypeError(f"expected `encoder` to be a module or a callable, got {type(encoder).__name__}")
        if levels is not None:
            _checks.not_empty("levels", levels, "map")
        _checks.not_empty("magnifications", magnifications, "size")
        for factor in magnifications:
            _checks.in_interval("magnifications", factor, 0.0, 16.0, open_low=True)
        _checks.integer_at_least("stride", stride, 1)
        _checks.integer_at_least("multiple", multiple, 1)
        if multiple % stride:
            raise ValueError(f"expected `multiple` to be a multiple of `stride`, {stride}, got {multiple}")
        _checks.integer_at_least("max_pixels", max_pixels, multiple**2)
        _checks.in_interval("position", position, 0.0, float("inf"), open_high=True)
        self.encoder: Any = encoder
        if isinstance(encoder, nn.Module):
            self.encoder = copy_of("encoder", encoder)
        self.levels = None if levels is None else tuple(levels)
        self.magnifications = tuple(map(float, magnifications))
        self.stride = stride
        self.multiple = multiple
        self.max_pixels = max_pixels
        self.position = position

    def train(self, mode: bool = True) -> KeyEncoder:
        """Stays in evaluation mode: keys must not depend on what else is in a batch."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Keys of images (B, 3, H, W), in the dtype of the encoder's weights or wider.

        Raises:
            TypeError: the images are not floating point.
            ValueError: they have other dimensions, or channels that the encoder does not take.
        """
        _checks.images("images", images)
        _checks.ndim("images", images, (4,), "(B, 3, H, W)")
        height, width = images.shape[-2:]
        weight = next(self.parameters(), None)
        images = widen(images) if weight is None else images.to(weight.dtype)
        padding = (0, -width % self.multiple, 0, -height % self.multiple)
        padded = F.pad(images, padding, mode="replicate")
        size = [side // self.stride for side in padded.shape[-2:]]
        blocks = []
        for factor in self.magnifications:
            for level in self._levels(self._resized(padded, factor)):
                unit = F.normalize(widen(level), dim=1)
                if list(level.shape[-2:]) != size:
                    unit = F.normalize(F.interpolate(unit, size=size, mode="bilinear", antialias=True), dim=1)
                blocks.append(unit)
        rows, columns = -(-height // self.stride), -(-width // self.stride)
        keys = torch.cat(blocks, dim=1)[..., :rows, :columns]
        if not self.position:
            return keys
        places = keys.new_tensor(whole_image(height, width)).expand(len(keys), 4)
        return torch.cat([keys, self.position * position_keys(places, (rows, columns))], dim=1)

    def _resized(self, images: Tensor, factor: float) -> Tensor:
        height, width = images.shape[-2:]
        factor = min(factor, (self.max_pixels / (height * width)) ** 0.5)
        size = [max(1, round(side * factor / self.multiple)) * self.multiple for side in (height, width)]
        if size == [height, width]:
            return images.clone()  # an encoder may normalize in place
        return F.interpolate(images, size=size, mode="bicubic", antialias=factor < 1).clamp(0, 1)

    def _levels(self, images: Tensor) -> list[Tensor]:
        try:
            found = self.encoder(images)
        except RuntimeError as error:
            if images.shape[1] == 3:
                raise
            wanted = "expected `images` of 3 channels (of one, images.expand(-1, 3, -1, -1))"
            raise ValueError(f"{wanted}, got {images.shape[1]}, which `encoder` does not take") from error
        maps = list(found.values()) if isinstance(found, Mapping) else found
        maps = [maps] if isinstance(maps, Tensor) else list(maps)
        for level in maps:
            _checks.floating("encoder", level)
            _checks.ndim("encoder", level, (4,), "(B, D, h, w), or a list of such, from each call")
        if self.levels is not None:
            if max(self.levels) >= len(maps) or min(self.levels) < -len(maps):
                raise ValueError(f"expected `levels` among the {len(maps)} maps of the encoder, got {self.levels}")
            return [maps[number] for number in self.levels]
        return [maps[number] for number in middle_levels([round(images.shape[-1] / each.shape[-1]) for each in maps])]

    extra_repr = printed("levels magnifications stride position")


def whole_image(height: int, width: int) -> tuple[float, float, float, float]:
    """Top, left, bottom and right of an image, from its middle, in halves of its longer side.

    Example:
        >>> whole_image(30, 40)
        (-0.75, -1.0, 0.75, 1.0)
    """
    longer = max(height, width)
    return -height / longer, -width / longer, height / longer, width / longer


def position_keys(places: Tensor, size: tuple[int, int]) -> Tensor:
    """Unit vectors (B, 4, h, w) that say where in its image each cell of a view lies.

    Args:
        places: (B, 4), top, left, bottom and right of the views, as :func:`whole_image` counts.
        size: (h, w).

    Example:
        >>> corners = position_keys(torch.tensor([whole_image(8, 8)]), (8, 8))[0, :, 0, 0]
        >>> round(float(corners.norm()), 4)
        1.0
    """
    angles = []
    for axis, cells in enumerate(size):
        first, last = places[:, axis, None], places[:, axis + 2, None]
        share = (torch.arange(cells, device=places.device) + 0.5) / cells
        angles.append(TURN * (first + (last - first) * share))  # (B, cells)
    down, across = angles[0][:, :, None].expand(-1, *size), angles[1][:, None, :].expand(-1, *size)
    return torch.stack([down.cos(), down.sin(), across.cos(), across.sin()], dim=1) / 2**0.5
