"""The sections of a recipe: every key, its default, and its range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from segmentation.validation import ranged


@dataclass
class Data:
    """Which images, and which of them are labeled."""

    layout: Literal["auto", "digits", "voc", "cityscapes", "camvid", "pairs"] = "auto"  # digits: the embedded scenes
    folder: str | None = None
    labeled: str | None = None  # a list (here, or in the folder), a number, or a share such as 1/8; None: a tenth
    unlabeled: str | None = None  # a list; None: the unlabeled.txt beside a published list, else all other images
    test: str | None = None  # a list; None: the data set's own
    held_out: int = ranged(0, 0)  # training images that no method sees, scored beside the test images
    val: str | None = None  # a list of images that are held out too
    classes: str | None = None  # a file with a class name a line; None: those of the layout
    resize: tuple[int, int] | None = ranged(None, 16)  # height, width that images are brought to before any view
    scenes: tuple[int, int] = ranged((600, 100), 8)  # embedded scenes to train on, to test on
    expected_images: int | None = ranged(None, 1)  # training images of the published set, for a cost without the data


@dataclass
class Views:
    """Weak: scale, crop, flip. Strong: the weak view recolored, blurred and cut together."""

    crop: tuple[int, int] | None = ranged(None, 16)  # None: as the images, at most 512
    scale: tuple[float, float] = ranged((0.5, 2.0), above=0)
    flip: bool = True  # the embedded digits are never mirrored
    jitter: float = ranged(0.8, 0, 1)  # share of the strong views whose colors change
    grey: float = ranged(0.2, 0, 1)
    blurred: float = ranged(0.5, 0, 1)
    blur: float = ranged(2.0, 0.1)  # largest sigma, in pixels
    mix: Literal["cutmix", "classmix", "none"] = "cutmix"
    mixed: float = ranged(0.5, 0, 1)
    balanced: float = ranged(0.0, 0, 1)  # share of the labeled crops drawn about a pixel of an evenly drawn class


@dataclass
class Network:
    """A segmentation network with two heads, classes and embedding."""

    architecture: Literal["deeplabv3plus", "deeplabv2", "segformer", "unet"] = "deeplabv3plus"
    backbone: str = "tu-tf_efficientnet_lite0"  # a name of segmentation-models-pytorch; tu-NAME: of timm; not of unet
    weights: str = "auto"  # auto (the hub; Lite0: its package; unet: none), none, or a file of the encoder
    statistics: Literal["published", "image"] = "published"  # what images are normalized by; image: each by its own
    width: int = ranged(16, 1)  # unet: channels at full size, twice as many at each of four levels below
    feature_dim: int = ranged(256, 1)
    decoder_channels: int = ranged(256, 8)  # not of deeplabv2, which has no decoder, nor of unet
    encoder_depth: Literal[4, 5] = 5  # deeplabv3plus: 4 leaves out the encoder's last stage
    atrous_rates: tuple[int, ...] = ranged((12, 24, 36), 1)  # in cells of the encoder's stride
    stride: Literal[8, 16] = 16  # of the encoder; segformer has its own
    dropout: float = ranged(0.5, 0, 0.99)  # of deeplabv3plus's pyramid; of unet's lowest level, less above


@dataclass
class Optimizer:
    """Polynomial decay from `learning_rate`, over warm-up and method together."""

    name: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = ranged(0.01, above=0)  # of the encoder
    head_factor: float = ranged(10.0, above=0)  # how many times that the rest learns
    momentum: float = ranged(0.9, 0, 1)  # of sgd
    weight_decay: float = ranged(1e-4, 0)
    power: float = ranged(0.9, 0)


@dataclass
class Schedule:
    """How long, and what a step is. Batch sizes are of a step as a whole: over all processes and accumulated parts."""

    warmup: int = ranged(2000, 1)  # supervised steps that all methods share
    steps: int | None = ranged(40_000, 1)  # of each method after the warm-up; None: `epochs`
    epochs: int | None = ranged(None, 1)  # passes over the unlabeled images, where `steps` is null
    labeled_batch: int = ranged(8, 1)
    unlabeled_batch: int = ranged(8, 1)
    accumulate: int = ranged(1, 1)  # parts a step is computed in, where memory is short
    rounds: int = ranged(2, 1)  # that the method `rounds` divides its steps into
    start: str | None = None  # warmup.pt of an earlier run with these settings, instead of the warm-up


@dataclass
class Teacher:
    """The teacher and what is asked of its labels."""

    momentum: float = ranged(0.99, 0, 1)  # share of its old weights that it keeps at a step
    confidence: float = ranged(0.95, 0, 1)  # what fixmatch and unimatch ask of a pixel


@dataclass
class Correct:
    """How methods correct labels, beside `refiner` and `anchors`; whether they do, their names say."""

    after: int = ranged(0, 0)  # steps of a method before the first label is corrected
    fade: int | None = ranged(None, 1)  # steps from there over which anchors lose all strength; then no correction


@dataclass
class Refiner:
    """The two graphs; see `DualGraphRefiner`."""

    preset: Literal["paper", "released"] = "paper"
    rounds: int = ranged(2, 1)  # K
    neighbors: int = ranged(20, 1)  # k
    alpha: float = ranged(0.2, 0, 1)
    sigma: float = ranged(0.95, 0, 1)
    order: Literal["class_first", "semantic_first", "simultaneous"] = "class_first"
    class_threshold: bool = True  # False: sigma for every class, an ablation of Eq. (9)
    max_nodes: int = ranged(4096, 1)  # larger maps are pooled
    guided: bool = True  # labels follow the image's edges at full resolution; the paper interpolates


@dataclass
class Anchors:
    """Labeled pixels to look up, in methods with +anchors. Beyond the paper."""

    capacity: int = ranged(3000, 1)  # most labeled pixels of a class
    decay: float = ranged(0.99, above=0, high=1)  # odds of an older anchor to stay, a step
    quota: int | None = ranged(None, 1)  # most labeled pixels of a class that one image offers at a time
    neighbors: int = ranged(20, 1)  # anchors that a pixel is compared with
    temperature: float = ranged(0.05, above=0)
    strength: float = ranged(1.0, 0)  # how far they move a probability
    eps: float = ranged(0.1, above=0, high=1)  # no class is less likely to them
    balance: float = ranged(1.0, 0, 1)  # 1: classes are alike beforehand; 0: as frequent as in the labeled images
    keys: Literal["trained", "initial", "pretrained"] = (
        "trained"  # of the teacher's encoder; of that before all training
    )
    encoder: str = "tf_efficientnet_lite0"  # pretrained: of timm, with its published weights, whatever the network is
    levels: tuple[int, ...] | None = ranged(None, 2, 5)  # of the encoder; None: 2, 3, 4 if trained, else 3, 4
    key_dim: int | None = ranged(None, 1)  # entries that keys are narrowed to for the search, which is faster
    skip_certain: bool = False  # pixels whose label no anchor could change are not looked up: faster, on a CPU
    position: float = ranged(0.0, 0)  # weight of a pixel's place in the image among its keys, where images lie alike
    magnifications: tuple[float, ...] = ranged((1.0,), above=0)  # initial, pretrained: of the image, to be looked at


@dataclass
class Loss:
    """Of pixels, and of graphs that learn, Eqs. (17) and (12): see `losses.py` and `LabelCorrectionLoss`."""

    slg_weight: float = ranged(0.1, 0)
    clg_weight: float = ranged(1.0, 0)
    balance: float = ranged(0.5, 0, 1)  # share of the term within an image, against that of the prototypes
    temperature: float = ranged(0.1, above=0)
    prototypes: bool = True
    prototype_momentum: float = ranged(0.99, 0, 1)
    self_weighted: bool = True  # the weight omega of Eq. (16)
    pixel_weight: float = ranged(1.0, 0)  # in mllc: of the loss of the unlabeled images' pixels; 0 in the paper
    dice: float = ranged(0.0, 0)  # weight of Dice beside the cross entropy, of labeled and of unlabeled pixels
    unlabeled: float = ranged(1.0, 0)  # weight of the loss of unlabeled images; of mllc, `pixel_weight` says it
    unlabeled_cross_entropy: float = ranged(1.0, 0)  # of unlabeled pixels; 0: Dice alone, as UniMatch has it on ACDC
    unlabeled_dice: float = ranged(1.0, 0)  # of unlabeled pixels, times `dice`; 0: cross entropy alone
    labels: Literal["hard", "soft", "agree"] = "hard"  # of unlabeled pixels; agree: hard, `disagreed` where corrected
    disagreed: float = ranged(0.5, 0, 1)  # weight of a pixel whose label the correction changed


@dataclass
class Evaluation:
    """When and how to test."""

    times: int = ranged(2, 1)  # how often a method is tested on its way, the end included
    judged: int = ranged(500, 1)  # unlabeled images on which pseudo-labels are judged, evenly spread
    mode: Literal["whole", "sliding"] = "whole"
    window: tuple[int, int] | None = ranged(None, 16)  # of the sliding mode; None: the crop
    scales: tuple[float, ...] = ranged((1.0,), above=0)
    flip: bool = False  # average over the mirrored image too
    deployed: bool = True  # score each student as it would be used too: corrected, augmented, and both
    dice: Literal["none", "image", "volume"] = "none"  # compare methods by Dice, see scores.py, rather than by mIoU


@dataclass
class Running:
    """Where and how, which should not change what comes out beyond rounding."""

    seed: int = ranged(0, 0)
    device: str = "auto"  # auto: cuda if there is one
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"  # fp64: to compare runs without rounding
    workers: int = ranged(0, 0)  # processes that load images, for each of labeled and unlabeled; 0: this one
    log_every: int = ranged(10, 1)
    checkpoint_every: int = ranged(500, 1)  # steps between two states to resume from
    tensorboard: bool = False
