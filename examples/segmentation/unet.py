"""MONAI's U-Net in the two halves that this trainer has of every network: an encoder of levels, and a decoder."""

from __future__ import annotations

from torch import Tensor, nn

DROPOUT = (0.1, 0.2, 0.4, 0.6, 1.0)  # of each level, times the recipe's: with 0.5 those of the field's code for ACDC


class Encoder(nn.Module):
    """Images (B, 3, H, W), sides in multiples of 16 -> five levels, at 1, 1/2, ... 1/16, of `out_channels`."""

    def __init__(self, levels: list[nn.Module], out_channels: tuple[int, ...]):
        super().__init__()
        self.levels, self.out_channels = nn.ModuleList(levels), out_channels

    def forward(self, images: Tensor) -> list[Tensor]:
        found = [images]
        for level in self.levels:
            found.append(level(found[-1]))
        return found[1:]


class Decoder(nn.Module):
    """Five levels -> one map (B, width, H, W)."""

    def __init__(self, steps: list[nn.Module]):
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def forward(self, levels: list[Tensor]) -> Tensor:
        *above, maps = levels
        for step in self.steps:
            maps = step(maps, above.pop())
        return maps


def parts(width: int, dropout: float) -> tuple[Encoder, Decoder]:
    """Encoder and decoder, with `width` channels at full size; about 1.9 million weights at 16.

    Raises:
        ImportError: MONAI is not installed.
    """
    try:
        from monai.networks.nets import BasicUNet  # takes seconds to import
    except ImportError as error:
        raise ImportError("`network.architecture` unet is MONAI's: pip install monai") from error
    widths = tuple(width * 2**level for level in range(5))
    act = ("LeakyReLU", {"negative_slope": 0.01, "inplace": True})
    whole = BasicUNet(2, 3, 1, (*widths, width), act=act, norm="batch")
    levels = [whole.conv_0, whole.down_1, whole.down_2, whole.down_3, whole.down_4]
    for level, share in zip(levels, DROPOUT, strict=True):  # between the two convolutions of a level
        first = next(part for part in level.modules() if isinstance(part, nn.Dropout))
        first.p = share * dropout
    return Encoder(levels, widths), Decoder([whole.upcat_4, whole.upcat_3, whole.upcat_2, whole.upcat_1])
