"""What a run depends on, all of it: typed sections that a YAML file fills and the command line overrides.

A recipe names its `base`, another recipe, and lists what differs. Every mistake is an error that says which key of
which file it is: a key that does not exist (with the nearest one that does), another type, a number out of range.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from segmentation.recipe_files import PATHS, place_paths, placed, read_recipe_file
from segmentation.validation import converted, is_within, range_words, ranged, words

RECIPES = Path(__file__).parent / "recipes"
Method = Literal["supervised", "self_training", "fixmatch", "mllc"]


@dataclass
class Data:
    """Which images, and which of them are labeled."""

    layout: Literal["auto", "digits", "voc", "cityscapes", "camvid"] = "auto"  # digits: the embedded scenes
    folder: str | None = None
    labeled: str | None = None  # a published list, a number, or a share such as 1/8; None: a tenth
    unlabeled: str | None = None  # a list; None: the unlabeled.txt beside a published list, else all other images
    test: str | None = None  # a list; None: the data set's own
    held_out: int = ranged(0, 0)  # training images that no method sees, scored beside the test images
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


@dataclass
class Network:
    """A segmentation network with two heads, classes and embedding."""

    architecture: Literal["deeplabv3plus", "deeplabv2", "segformer"] = "deeplabv3plus"
    backbone: str = "tu-tf_efficientnet_lite0"  # a name of segmentation-models-pytorch; tu-NAME: of timm
    weights: str = "auto"  # auto (the hub; Lite0: its package), none, or a file with the encoder's state dict
    feature_dim: int = ranged(256, 1)
    decoder_channels: int = ranged(256, 8)  # not of deeplabv2, which has no decoder
    encoder_depth: Literal[4, 5] = 5  # deeplabv3plus: 4 leaves out the encoder's last stage
    atrous_rates: tuple[int, ...] = ranged((12, 24, 36), 1)  # in cells of the encoder's stride
    stride: Literal[8, 16] = 16  # of the encoder; segformer has its own
    dropout: float = ranged(0.5, 0, 0.99)


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
    start: str | None = None  # warmup.pt of an earlier run with these settings, instead of the warm-up


@dataclass
class Teacher:
    """The teacher and what is asked of its labels."""

    momentum: float = ranged(0.99, 0, 1)  # share of its old weights that it keeps at a step
    confidence: float = ranged(0.95, 0, 1)  # what fixmatch asks of a pixel


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
    """Labeled pixels to look up, in mllc. Beyond the paper: its recipes leave them out."""

    use: bool = True
    capacity: int = ranged(3000, 1)  # most labeled pixels of a class to remember
    decay: float = ranged(0.99, above=0, high=1)  # odds of an older anchor to stay, a step
    keys: Literal["trained", "initial"] = "trained"  # of the teacher's encoder, or of the encoder before all training
    levels: tuple[int, ...] = ranged((3, 4), 2, 5)  # initial: of the encoder, 2 being the one at 1/4
    magnifications: tuple[float, ...] = ranged((1.0,), above=0)  # initial: of the image, to be looked at


@dataclass
class Loss:
    """Eq. (17) and (12); see `LabelCorrectionLoss`."""

    slg_weight: float = ranged(0.1, 0)
    clg_weight: float = ranged(1.0, 0)
    balance: float = ranged(0.5, 0, 1)  # share of the term within an image, against that of the prototypes
    temperature: float = ranged(0.1, above=0)
    prototypes: bool = True
    prototype_momentum: float = ranged(0.99, 0, 1)
    self_weighted: bool = True  # the weight omega of Eq. (16)
    pixel_weight: float = ranged(1.0, 0)  # of a cross entropy with corrected labels at full resolution; 0 in the paper
    soft: bool = False  # that cross entropy is with the corrected probabilities, not with the labels they make


@dataclass
class Evaluation:
    """When and how to test."""

    times: int = ranged(2, 1)  # how often a method is tested on its way, the end included
    judged: int = ranged(500, 1)  # unlabeled images on which pseudo-labels are judged
    mode: Literal["whole", "sliding"] = "whole"
    window: tuple[int, int] | None = ranged(None, 16)  # of the sliding mode; None: the crop
    scales: tuple[float, ...] = ranged((1.0,), above=0)
    flip: bool = False  # average over the mirrored image too


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


@dataclass
class Recipe:
    """A run: sections of settings, and the methods to compare."""

    methods: tuple[Method, ...] = ("supervised", "self_training", "fixmatch", "mllc")
    data: Data = field(default_factory=Data)
    views: Views = field(default_factory=Views)
    network: Network = field(default_factory=Network)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    teacher: Teacher = field(default_factory=Teacher)
    refiner: Refiner = field(default_factory=Refiner)
    anchors: Anchors = field(default_factory=Anchors)
    loss: Loss = field(default_factory=Loss)
    evaluation: Evaluation = field(default_factory=Evaluation)
    running: Running = field(default_factory=Running)

    def get(self, key: str) -> Any:
        """The value of a dotted key."""
        section, _, name = key.rpartition(".")
        return getattr(getattr(self, section) if section else self, name)

    def place_paths(self) -> None:
        """Make paths absolute, as seen from here: they then mean the same wherever the recipe is read."""
        for key in PATHS:
            self.set(key, placed(key, self.get(key), Path()), "the recipe")

    def set(self, key: str, value: Any, source: str) -> None:
        """Set a dotted key; `source` is whom an error blames."""
        _set(self, key, value, source)


def load(name: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """The recipe of that name in `recipes/`, or of that file, on its bases, with dotted keys laid over it.

    Raises:
        ValueError: no such recipe, or a key or value that no recipe has; the message names file and key.
    """
    recipe = Recipe()
    for source, content in _with_bases(name):
        _fill(recipe, content, source, prefix="")
    for key, value in (overrides or {}).items():
        recipe.set(key, value, "the command line")
    _check_together(recipe)
    return recipe


def as_dict(recipe: Recipe) -> dict[str, Any]:
    """Plain lists, numbers and strings, for YAML, JSON and checkpoints; `from_dict` reads it back."""
    return listed(dataclasses.asdict(recipe))


def listed(value: Any) -> Any:
    """A value with lists for its tuples, as files have them."""
    if isinstance(value, dict):
        return {key: listed(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def from_dict(content: dict[str, Any], source: str) -> Recipe:
    """The recipe that `as_dict` wrote, say of a checkpoint."""
    recipe = Recipe()
    _fill(recipe, content, source, prefix="")
    _check_together(recipe)
    return recipe


def known_keys() -> list[str]:
    """Every dotted key."""
    recipe = Recipe()
    sections = [part.name for part in dataclasses.fields(recipe) if part.name != "methods"]
    return ["methods", *(f"{s}.{part.name}" for s in sections for part in dataclasses.fields(getattr(recipe, s)))]


def is_text(key: str) -> bool:
    """Whether a dotted key takes text."""
    section, _, name = key.rpartition(".")
    holder = typing.get_type_hints(Recipe).get(section)
    wanted = typing.get_type_hints(holder).get(name) if holder is not None else None
    return wanted in (str, str | None)


def _with_bases(name: str) -> list[tuple[str, dict[str, Any]]]:
    """The files of a recipe, its first base first, each with its source and content."""
    found: list[tuple[str, dict[str, Any]]] = []
    seen: list[str] = []
    while name is not None:
        if name in seen:
            raise ValueError(f"recipe {seen[0]}: its bases go in a circle, {' -> '.join([*seen, name])}")
        seen.append(name)
        path = _recipe_file(str(name), found[-1][0] if found else None)
        if not path.is_file():
            names = sorted(path.stem for path in RECIPES.glob("*.yaml"))
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"expected a recipe's name or file, got {name!r}; {hint}There are {', '.join(names)}")
        content = read_recipe_file(path)
        place_paths(content, path.parent)
        content.pop("about", None)
        name = content.pop("base", None)
        found.append((str(path), content))
    return found[::-1]


def _recipe_file(name: str, asking: str | None) -> Path:
    """The file of a recipe's name: ours, else one beside the recipe that asks for it as its base, else from here."""
    ours, beside = RECIPES / f"{name}.yaml", Path(asking or "").parent / name
    return ours if ours.is_file() else beside if beside.is_file() else Path(name)


def _fill(recipe: Recipe, content: dict[str, Any], source: str, prefix: str) -> None:
    for key, value in content.items():
        if prefix or not dataclasses.is_dataclass(getattr(recipe, str(key), None)):
            _set(recipe, f"{prefix}{key}", value, source)
        elif isinstance(value, dict):
            _fill(recipe, value, source, prefix=f"{key}.")
        elif value is not None:  # a section that is empty changes nothing
            raise ValueError(f"{source}: expected `{key}` to be a section of keys, got {value!r}")


def _set(recipe: Recipe, dotted: str, value: Any, source: str) -> None:
    if dotted not in known_keys():
        near = difflib.get_close_matches(dotted, known_keys(), 1, cutoff=0.5)
        # A key that only lacks its section, or has the wrong one, is nearer than one that merely looks alike.
        near = [key for key in known_keys() if key.split(".")[-1] == dotted.split(".")[-1]][:1] or near
        raise ValueError(f"{source}: unknown key `{dotted}`" + (f"; did you mean `{near[0]}`?" if near else ""))
    section, _, key = dotted.rpartition(".")
    holder = getattr(recipe, section) if section else recipe
    wanted = typing.get_type_hints(type(holder))[key]
    limits = {part.name: part.metadata for part in dataclasses.fields(holder)}[key]
    try:
        result = converted(value, wanted)
    except TypeError:
        raise ValueError(f"{source}: expected `{dotted}` to be {words(wanted)}, got {value!r}") from None
    if not is_within(result, limits):
        raise ValueError(f"{source}: expected `{dotted}` {range_words(limits)}, got {value!r}")
    setattr(holder, key, result)


def _check_together(recipe: Recipe) -> None:
    """What no single key can say."""
    if recipe.views.scale[0] > recipe.views.scale[1]:
        raise ValueError(f"expected `views.scale` as two numbers MIN <= MAX, got {list(recipe.views.scale)}")
    if recipe.schedule.steps is None and recipe.schedule.epochs is None:
        raise ValueError("expected `schedule.steps` or `schedule.epochs`, got null for both")
    if recipe.network.architecture == "deeplabv3plus" and len(recipe.network.atrous_rates) != 3:
        raise ValueError(f"expected `network.atrous_rates` of 3 for deeplabv3plus, got {recipe.network.atrous_rates}")
    if recipe.schedule.labeled_batch < 2 * recipe.schedule.accumulate:  # BatchNorm fails on a batch of one
        raise ValueError(
            f"expected `schedule.labeled_batch` of at least 2 images for each of {recipe.schedule.accumulate} part(s), "
            f"got {recipe.schedule.labeled_batch}"
        )
    anchors, network = recipe.anchors, recipe.network
    depth = network.encoder_depth if network.architecture == "deeplabv3plus" else 5
    if anchors.keys == "initial" and max(anchors.levels) > depth:
        raise ValueError(f"expected `anchors.levels` among the encoder's {depth}, got {list(anchors.levels)}")
    loss = recipe.loss
    if "mllc" in recipe.methods and loss.slg_weight == loss.clg_weight == loss.pixel_weight == 0:
        raise ValueError(
            "expected a weight above 0 for mllc, got 0 for `loss.slg_weight`, `clg_weight`, `pixel_weight`"
        )
    recipe.methods = tuple(dict.fromkeys(recipe.methods))
