"""The command line that the training scripts share: a recipe, flags for its usual keys, `--set` for all of them."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from graphcorrect.cli.console import in_words, steady_output, unforeseen
from graphcorrect.files.faults import check_writable, looks_like
from graphcorrect.files.images import IMAGE_ENDINGS
from graphcorrect.files.saving import write_atomically
from graphcorrect_cli.parser import at_least
from segmentation import processes
from segmentation.checkpoint import alone_in
from segmentation.engine import run
from segmentation.extras import cost, speed
from segmentation.extras.paper import load_any, rows
from segmentation.manifest import MAY_CHANGE_ON_RESUME
from segmentation.recipe import RECIPES, Recipe, as_dict, from_dict, is_text
from segmentation.recipe_files import placed, read_recipe_file

# Flag, keys it sets, number of values (None: one), help. Every other key is set with --set.
FLAGS: tuple[tuple[str, str, int | str | None, str], ...] = (
    ("--method", "methods", "+", "TEACHING[+anchors][+graphs], such as fixmatch+anchors+graphs; compare: the recipe's"),
    (
        "--data",
        "data.folder",
        None,
        "folder in the layout of VOC, Cityscapes, CamVid or pairs (camvid:FOLDER says so)",
    ),
    ("--labeled", "data.labeled", None, "split list, or how many labeled images to draw, or a share such as 1/8"),
    ("--held-out", "data.held_out", None, "training images that no method sees, scored beside the test images"),
    ("--classes", "data.classes", None, "file with a class name a line; default: the folder's, else the layout's"),
    ("--seed", "running.seed", None, ""),
    ("--device", "running.device", None, "auto, cpu, cuda"),
    ("--precision", "running.precision", None, "fp32, bf16, fp16"),
    ("--workers", "running.workers", None, "processes that load images; 0: this one"),
    ("--warmup", "schedule.warmup", None, "supervised steps that all methods share"),
    ("--start", "schedule.start", None, "warmup.pt of an earlier run with these settings, instead of the warm-up"),
    ("--steps", "schedule.steps", None, "steps of each method after the warm-up"),
    ("--batch-size", "schedule.labeled_batch schedule.unlabeled_batch", None, "images of a step, of each kind"),
    ("--accumulate", "schedule.accumulate", None, "parts a step is computed in"),
    ("--crop", "views.crop", 2, "height and width"),
    ("--scale", "views.scale", 2, "range of the random scale"),
    ("--blur", "views.blur", None, "largest sigma of the strong view's blur, in pixels"),
    ("--backbone", "network.backbone", None, "encoder of segmentation-models-pytorch; tu-NAME: of timm"),
    ("--weights", "network.weights", None, "auto, none, or a file with the encoder's state dict"),
    ("--feature-dim", "network.feature_dim", None, "entries of the embedding the graphs are built on"),
    ("--decoder-channels", "network.decoder_channels", None, ""),
    ("--encoder-depth", "network.encoder_depth", None, "4 leaves out the encoder's last stage"),
    ("--atrous-rates", "network.atrous_rates", "+", "dilations of the decoder"),
    ("--learning-rate", "optimizer.learning_rate", None, "of the encoder"),
    ("--head-factor", "optimizer.head_factor", None, "how many times that the rest learns"),
    ("--weight-decay", "optimizer.weight_decay", None, ""),
    ("--optimizer", "optimizer.name", None, "sgd, adamw"),
    ("--ema", "teacher.momentum", None, "share of its old weights the teacher keeps at a step"),
    ("--confidence", "teacher.confidence", None, "what fixmatch and unimatch ask of a pixel"),
    ("--rounds", "refiner.rounds", None, "rounds of correction, K"),
    ("--neighbors", "refiner.neighbors", None, "neighbors of a pixel in the semantic-level graph, k"),
    ("--max-nodes", "refiner.max_nodes", None, "most nodes of a graph; larger maps are pooled"),
    ("--slg-weight", "loss.slg_weight", None, "weight of the contrastive loss in mllc"),
    ("--anchor-capacity", "anchors.capacity", None, "most labeled pixels of a class"),
    ("--evaluations", "evaluation.times", None, "how often a method is tested on its way, the end included"),
    ("--judged", "evaluation.judged", None, "unlabeled images on which pseudo-labels are judged"),
    ("--log-every", "running.log_every", None, ""),
    ("--checkpoint-every", "running.checkpoint_every", None, "steps between two states to resume from"),
)
SMOKE = {
    "schedule.steps": 3, "schedule.warmup": 3, "schedule.labeled_batch": 2, "schedule.unlabeled_batch": 4,
    "schedule.accumulate": 1, "evaluation.judged": 8, "evaluation.times": 1, "running.log_every": 1,
}  # fmt: skip
SMOKE_DIGITS = {"data.scenes": (40, 10), "data.labeled": "8"}


class Command(NamedTuple):
    """What a command line asks for."""

    recipe: Recipe
    out: Path
    resume: bool
    dry_run: bool
    measure: int | None = None


@steady_output()
def parse(arguments: list[str] | None, *, doc: str, out: str, recipe: str, with_data: str | None = None) -> Command:
    """Read a command line; a mistake ends the program with a message that names it.

    Args:
        arguments: None reads those of the process.
        doc: the script's docstring.
        out: default folder of the run.
        recipe: default recipe, and `with_data` that where `--data` is given.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", help=f"name (see examples/segmentation/recipes) or file; default: {recipe}")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="any recipe key")
    parser.add_argument("--out", type=Path, default=Path(out), help="the run's folder")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out, as it began")
    parser.add_argument("--overwrite", action="store_true", help="begin anew though --out holds a run")
    parser.add_argument("--dry-run", action="store_true", help="print the recipe and what it costs, train nothing")
    parser.add_argument(
        "--measure", type=at_least(1), metavar="STEPS", help="time so many steps and the loader, print JSON"
    )
    parser.add_argument("--smoke", action="store_true", help="a few steps of everything, to see that it runs")
    parser.add_argument("--no-flip", action="store_true", help="do not mirror images (the embedded digits never are)")
    parser.add_argument("--no-anchors", action="store_true", help="take +anchors from the name of every method")
    for flag, keys, count, text in FLAGS:
        parser.add_argument(flag, nargs=count, metavar=keys.split(".")[-1].upper(), help=text or None)
    given = parser.parse_args(arguments)
    try:
        overrides = _overrides(given)
        if given.resume:
            return Command(resumed(given.out, overrides), given.out, True, given.dry_run)
        if not (given.overwrite or given.dry_run or given.measure):
            if (given.out / "resume.pt").exists():
                parser.error(f"{given.out} holds an unfinished run: --resume goes on with it, --overwrite begins anew")
            if (given.out / "results.json").exists():
                parser.error(f"{given.out} holds a finished run: --overwrite begins anew, another --out keeps both")
        is_ours = given.recipe is None or given.recipe in rows() or (RECIPES / f"{given.recipe}.yaml").is_file()
        if not is_ours and os.path.lexists(given.recipe) and (fault := looks_like(Path(given.recipe))):
            raise ValueError(f"{given.recipe}: expected a recipe; {fault}")
        name = given.recipe or (with_data if with_data and given.data else recipe)
        if given.smoke:
            digits = load_any(name, overrides).data.layout == "digits"
            overrides = SMOKE | (SMOKE_DIGITS if digits else {}) | overrides
        found = load_any(name, overrides)
        if given.no_anchors:
            found.set("methods", [method.replace("+anchors", "") for method in found.methods], "--no-anchors")
        return Command(found, given.out, False, given.dry_run, given.measure)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    except Exception as error:
        parser.error(unforeseen(error))


def main(command: Command) -> None:
    """Do what a command line asks for; what goes wrong ends the program in words."""
    with in_words(failed="the run has failed", note=lambda: _how_to_go_on(command.out)):
        work(command)


def work(command: Command) -> None:
    """The same, with its errors as they are."""
    if not command.resume:  # the recipe of a run is compared with what it was
        command.recipe.place_paths()
    if command.dry_run:
        print(yaml.safe_dump(as_dict(command.recipe), sort_keys=False))
        print(cost.estimate(command.recipe))
        return
    if command.measure is not None:
        with tempfile.TemporaryDirectory() as scratch:  # of a run that is there nothing is written over
            found = speed.measure(command.recipe, Path(scratch), command.measure)
        if processes.is_first():
            print(json.dumps(found, indent=2))
        return
    if not processes.is_first():
        run(command.recipe, command.out, resume=command.resume)
        return
    expect_beside_data(command.out, command.recipe.data.folder)
    check_writable(command.out)
    with alone_in(command.out):
        if not command.resume:
            (command.out / "resume.pt").unlink(missing_ok=True)
            write_recipe(command.recipe, command.out)
        run(command.recipe, command.out, resume=command.resume)


def expect_beside_data(out: Path, data: str | None) -> None:
    """Results do not go among the images and masks of the data set, which would take their pictures for its own.

    Raises:
        ValueError: a folder between the data set's and `out`, or `out` itself, holds pictures that no run has written.
    """
    top, inner = Path(data or os.devnull).resolve(), out.resolve()
    between = [folder for folder in (inner, *inner.parents) if top in folder.parents]
    for folder in between:
        is_a_run = (folder / "recipe.yaml").is_file()
        pictures = [] if is_a_run or not folder.is_dir() else folder.iterdir()
        if any(path.suffix.lower() in IMAGE_ENDINGS for path in pictures):
            raise ValueError(
                f"expected --out beside the images of `data.folder`, got {str(out)!r} among those of {folder}"
            )


def _how_to_go_on(out: Path) -> str:
    """What to say of a run that has stopped, if it has saved anything."""
    return f"\n--resume --out {out} goes on from its last checkpoint" if (out / "resume.pt").is_file() else ""


def write_recipe(recipe: Recipe, out: Path) -> None:
    """The whole recipe, as `--resume` and `--recipe FILE` read it."""
    write_atomically(out / "recipe.yaml", yaml.safe_dump(as_dict(recipe), sort_keys=False).encode())


def _overrides(given: argparse.Namespace) -> dict[str, Any]:
    """The keys that flags and --set name."""
    found: dict[str, Any] = {}
    for flag, keys, _, _ in FLAGS:
        value = getattr(given, flag.removeprefix("--").replace("-", "_"))
        if value is not None:
            for key in keys.split():
                found[key] = [_value(key, item) for item in value] if isinstance(value, list) else _value(key, value)
    if "compare" in found.get("methods", []):
        del found["methods"]
    folder = str(found.get("data.folder", ""))
    layout, _, rest = folder.partition(":")
    if layout in ("camvid", "pairs"):
        found |= {"data.folder": rest, "data.layout": layout}
    if given.no_flip:
        found["views.flip"] = False
    return found | values_of(given.set)


def values_of(settings: list[str]) -> dict[str, Any]:
    """Dotted keys and values of `--set KEY=VALUE ...`."""
    found: dict[str, Any] = {}
    for item in settings:
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"expected --set KEY=VALUE, got {item!r}")
        found[key] = _value(key, value)
    return found


def _value(key: str, text: str) -> Any:
    """A value as YAML reads it: number, true, null, [1, 2]; as it stands where the key takes text: 1_8 is not 18."""
    if is_text(key) and text != "null":
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"expected a value as in YAML, got {text!r} ({error})") from error


def resumed(out: Path, overrides: dict[str, Any]) -> Recipe:
    """The recipe that the run in `out` began with."""
    file = out / "recipe.yaml"
    if not (file.exists() or file.is_symlink()):
        raise ValueError(f"expected a run to resume in --out, found no {file}")
    stored = read_recipe_file(file)
    lacking = as_dict(Recipe()).keys() - stored.keys()
    if lacking:
        raise ValueError(f"{file}: expected the whole recipe of a run, got one without {', '.join(sorted(lacking))}")
    recipe, typed = from_dict(stored, str(file)), from_dict(stored, str(file))
    data = recipe.data.folder
    for key, value in overrides.items():
        typed.set(key, placed(key, value, Path(), data), "the command line")
        if key in MAY_CHANGE_ON_RESUME:
            recipe.set(key, value, "the command line")
        elif typed.get(key) != placed(key, recipe.get(key), Path(), data):  # earlier versions left lists relative
            raise ValueError(
                f"expected `{key}` as the run began, {recipe.get(key)!r}, got {value!r}; "
                f"only {', '.join(MAY_CHANGE_ON_RESUME)} may change on --resume"
            )
    return recipe
