"""What a run depends on, all of it: the typed `sections`, which a YAML file fills and the command line overrides.

A recipe names its `base`, another recipe, and lists what differs. Every mistake is an error that says which key of
which file it is: a key that does not exist (with the nearest one that does), another type, a number out of range.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segmentation.method import Method, parse
from segmentation.recipe_files import PATHS, of_earlier_versions, place_paths, placed, read_recipe_file
from segmentation.sections import (
    Anchors,
    Correct,
    Data,
    Evaluation,
    Loss,
    Network,
    Optimizer,
    Refiner,
    Running,
    Schedule,
    Teacher,
    Views,
)
from segmentation.validation import converted, is_within, range_words, words

RECIPES = Path(__file__).parent / "recipes"
SPELLED_ANEW = {  # keys of earlier versions
    "anchors.use": "said by the methods: mllc+anchors, or mllc without them",
    "loss.soft": "`loss.labels: soft`",
}


@dataclass
class Recipe:
    """A run: sections of settings, and the methods to compare."""

    methods: tuple[str, ...] = ("supervised", "self_training", "fixmatch", "mllc+anchors")  # see method.py
    data: Data = field(default_factory=Data)
    views: Views = field(default_factory=Views)
    network: Network = field(default_factory=Network)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    teacher: Teacher = field(default_factory=Teacher)
    correct: Correct = field(default_factory=Correct)
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
            self.set(key, placed(key, self.get(key), Path(), self.data.folder), "the recipe")

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
    _check_together(recipe, f"recipe {name}")
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
    _fill(recipe, of_earlier_versions(content), source, prefix="")
    _check_together(recipe, source)
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
    if dotted in SPELLED_ANEW:
        raise ValueError(f"{source}: `{dotted}` is {SPELLED_ANEW[dotted]} now")
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
    if dotted == "methods":
        result = tuple(dict.fromkeys(str(_method(name, source)) for name in result))
    setattr(holder, key, result)


def _method(name: str, source: str) -> Method:
    try:
        return parse(name)
    except ValueError as error:
        raise ValueError(f"{source}: `methods`: {error}") from None


def _check_together(recipe: Recipe, source: str) -> None:
    """What no single key can say; `source` is whom an error blames."""
    try:
        _check_keys(recipe)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def _check_keys(recipe: Recipe) -> None:
    """The same, blaming nobody."""
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
    depth = {"deeplabv3plus": network.encoder_depth, "unet": 4}.get(network.architecture, 5)
    deepest = {"trained": 4, "initial": depth, "pretrained": 5}[anchors.keys]
    if anchors.levels is not None and max(anchors.levels) > deepest:
        raise ValueError(f"expected `anchors.levels` among the encoder's {deepest}, got {list(anchors.levels)}")
    loss, methods = recipe.loss, [parse(name) for name in recipe.methods]
    if loss.labels != "hard" and any(method.teaching == "rounds" for method in methods):
        raise ValueError(f"expected `loss.labels` hard beside rounds, whose labels are files, got {loss.labels}")
    learns_nothing = loss.unlabeled_cross_entropy == loss.dice * loss.unlabeled_dice == 0
    if any(method.uses_unlabeled for method in methods) and learns_nothing:
        raise ValueError("expected `loss.unlabeled_cross_entropy` or `loss.dice` and `unlabeled_dice` above 0, got 0")
    if any(method.graph_losses for method in methods) and loss.slg_weight == loss.clg_weight == loss.pixel_weight == 0:
        raise ValueError(
            "expected a weight above 0 for mllc, got 0 for `loss.slg_weight`, `clg_weight`, `pixel_weight`"
        )
