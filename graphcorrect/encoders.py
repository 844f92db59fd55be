"""Encoders of timm by name: their two middle levels, of images in [0, 1], weights from the hub or from a file."""

from __future__ import annotations

import contextlib
import difflib
import functools
import logging
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphcorrect import _checks
from graphcorrect.keys import STRIDE, KeyEncoder, Maps, middle_levels

PREFIX = "timm:"
# By which timm's transformers take images of other sizes than those they were trained on; the others know no such word
ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False})


class TimmEncoder(nn.Module):
    """Levels of an encoder of timm, as a list of maps (B, D, h, w), for images (B, 3, H, W) in [0, 1].

    Args:
        name: as timm knows it, after "timm:" or without.
        levels: of `timm.create_model(name, features_only=True)`; None takes those at 1/8 and 1/16, or else the two in
            the middle. Deeper levels are not computed.
        pretrained: True takes the published weights, from the hub or from where it has kept them.
        weights: a file of weights instead, `.safetensors` or torch's, by timm's names or by those of
            `efficientnet-lite-pytorch`; it is read without running code.

    Attributes:
        dims: channels of each level.
        multiple: of the sides of an image, so that the cells of all levels line up.

    Raises:
        ImportError: timm is not installed.
        ValueError: timm has no such encoder, the weights could not be fetched, or do not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        *,
        levels: Sequence[int] | None = None,
        pretrained: bool = True,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        timm = _timm()
        if levels is not None:
            _checks.not_empty("levels", levels, "map")
        self.name = name.removeprefix(PREFIX)
        if not timm.is_model(self.name):
            near = difflib.get_close_matches(self.name.partition(".")[0], timm.list_models(), n=3)
            meant = f"; did you mean {' or '.join(PREFIX + each for each in near)}?" if near else ""
            raise ValueError(f"expected `encoder` to be an encoder of timm, got {name!r}{meant}")
        with torch.random.fork_rng(devices=[]):  # random weights that are replaced, or not meant to be
            any_size, info = self._any_size()
            reductions = info.reduction()
            self.levels = _levels(levels, reductions)
            self.dims = tuple(info.channels()[level] for level in self.levels)
            settings: dict[str, Any] = {"features_only": True, "out_indices": self.levels, **any_size}
            if weights is not None:
                entries = self._entries(Path(weights))
                settings |= {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": entries}}
            elif pretrained:
                settings |= {"pretrained": True}
            log = logging.getLogger("timm.models._builder")  # which warns of the levels that are left out
            before = log.level
            log.setLevel(logging.ERROR)
            try:
                self.body = timm.create_model(self.name, **settings)
            except Exception as error:  # of timm, the hub and the connection, each with types of its own
                line = (str(error).strip().splitlines() or [type(error).__name__])[0]
                where = "could not be fetched; give `weights` a file" if weights is None else f"do not fit: {weights}"
                raise ValueError(f"weights of `encoder` {name!r} {where} ({line})") from error
            finally:
                log.setLevel(before)
        self.multiple = max(reductions[level] for level in self.levels)
        self.is_channels_last = getattr(self.body, "output_fmt", "NCHW") == "NHWC"
        published = timm.get_pretrained_cfg(self.name)
        statistics = (published.mean, published.std) if published else ((0.0,) * 3, (1.0,) * 3)
        for key, values in zip(("mean", "std"), statistics, strict=True):
            self.register_buffer(key, torch.tensor(values).view(3, 1, 1), persistent=False)

    def _any_size(self) -> tuple[dict[str, Any], Any]:
        """What makes the encoder take images of any size, and what timm says of its levels."""
        build = functools.partial(_timm().create_model, self.name, features_only=True, pretrained=False)
        for settings in ANY_SIZE:
            with contextlib.suppress(TypeError):  # of an encoder that does not know the word
                return settings, build(**settings).feature_info
        return {}, build().feature_info

    def forward(self, images: Tensor) -> list[Tensor]:
        """The levels.

        Raises:
            ValueError: the images have other than three channels, or a size that the encoder does not take.
        """
        _checks.size("images", images, 1, 3, "channels (of one, use images.expand(-1, 3, -1, -1))")
        try:
            levels = list(self.body((images - self.mean) / self.std))
        except AssertionError as error:  # of timm, where an encoder is made for one size
            height, width = images.shape[-2:]
            raise ValueError(
                f"expected `encoder` to take images of any size, got {PREFIX}{self.name}, which takes none of "
                f"{height} x {width} ({error}); a convolutional one does, and so do most vit"
            ) from error
        return [level.movedim(-1, 1) for level in levels] if self.is_channels_last else levels

    def _entries(self, file: Path) -> dict[str, Tensor]:
        """The tensors of a file by timm's names; all that the encoder has are there, in their shapes."""
        entries = _read(file)
        if "_conv_stem.weight" in entries:  # of the package efficientnet-lite-pytorch
            entries = {rename_lite0(key): value for key, value in entries.items()}
        with torch.device("meta"):
            wanted = _timm().create_model(self.name, pretrained=False, num_classes=0).state_dict()
        missing = [key for key in wanted if key not in entries and not key.endswith("num_batches_tracked")]
        if missing:
            raise ValueError(f"expected `weights` of {self.name}, got {file}, which lacks {_some(missing)}")
        other = [key for key in wanted if key in entries and entries[key].shape != wanted[key].shape]
        if other:
            raise ValueError(f"expected `weights` of {self.name}, got {file}, whose shapes differ in {_some(other)}")
        return entries


def key_encoder(
    encoder: str | Callable[[Tensor], Maps],
    *,
    levels: Sequence[int] | None = None,
    pretrained: bool = True,
    weights: str | Path | None = None,
    **options: Any,
) -> KeyEncoder:
    """Keys by an encoder of any kind.

    Args:
        encoder: "timm:NAME", or a module or callable as :class:`KeyEncoder` takes it.
        levels: which maps of it; None takes those at 1/8 and 1/16.
        pretrained: False leaves a timm encoder's weights random.
        weights: a file of weights for a timm encoder, instead of the hub's.
        **options: those of :class:`KeyEncoder`, save `multiple` with a timm encoder.

    Raises:
        ValueError: there is no such encoder, or `weights` are given to one that is none of timm's.
        ImportError: `encoder` names one of timm, which is not installed.

    Example:
        >>> keys = key_encoder(torch.nn.Conv2d(3, 8, 8, stride=8), magnifications=(1.0, 2.0))
        >>> keys(torch.rand(1, 3, 32, 48)).shape
        torch.Size([1, 16, 8, 12])
    """
    if isinstance(encoder, str):
        named = TimmEncoder(encoder, levels=levels, pretrained=pretrained, weights=weights)
        multiple = math.lcm(named.multiple, STRIDE)
        return KeyEncoder(named, levels=range(len(named.levels)), multiple=multiple, **options)
    if weights is not None:
        raise ValueError(f"expected no `weights` with an `encoder` that is none of timm's, got {weights}")
    return KeyEncoder(encoder, levels=levels, **options)


def _levels(levels: Sequence[int] | None, reductions: Sequence[int]) -> tuple[int, ...]:
    """The levels asked for, from the first one on, as timm gives them; by default those in the middle."""
    if levels is None:
        return tuple(middle_levels(reductions))
    _checks.not_empty("levels", levels, "map")
    count = len(reductions)
    if any(not -count <= level < count for level in levels):
        raise ValueError(f"expected `levels` among the {count} maps of the encoder, got {tuple(levels)}")
    return tuple(sorted({level % count for level in levels}))


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ImportError('`encoder="timm:..."` needs timm: pip install timm') from error
    return timm


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise ValueError(f"expected `weights` to be a file, got {str(file)!r}, which is none")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except ImportError:
        raise
    except Exception as error:  # of pickle, zip and safetensors
        raise ValueError(
            f"expected `weights` to be a state dict of tensors alone, got {file}: {type(error).__name__}"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not any(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"expected `weights` to be a state dict, got {file}, which holds a {type(content).__name__}")
    return {key.removeprefix("module."): value for key, value in content.items() if isinstance(value, Tensor)}


def _some(words: list[str]) -> str:
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def rename_lite0(key: str) -> str:
    """A key of `efficientnet-lite-pytorch` (flat blocks) in timm's words (blocks by stage).

    Example:
        >>> rename_lite0("_blocks.1._expand_conv.weight")
        'blocks.1.0.conv_pw.weight'
    """
    match = re.match(r"_blocks\.(\d+)\._(\w+?)\.(.+)", key)
    if match is None:
        head = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
        name, _, rest = key.partition(".")
        return f"{head.get(name, name)}.{rest}"
    block, layer, rest = int(match[1]), match[2], match[3]
    firsts = (0, 1, 3, 5, 8, 11, 15)  # block each of the seven stages begins with
    stage = max(index for index, first in enumerate(firsts) if first <= block)
    # The first stage does not expand, so timm counts its layers from the depthwise one.
    layers = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
    if stage > 0:
        layers = {"expand_conv": "conv_pw", "bn0": "bn1", "depthwise_conv": "conv_dw", "bn1": "bn2"}
        layers |= {"project_conv": "conv_pwl", "bn2": "bn3"}
    return f"blocks.{stage}.{block - firsts[stage]}.{layers.get(layer, layer)}.{rest}"
