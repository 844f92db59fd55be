"""A run: what does not change over it, how it begins, what it refuses, and what it saves to go on from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from graphcorrect.files.text import few
from segmentation import checkpoint, manifest, processes, report
from segmentation.checking import check, usual_size
from segmentation.datasets import Sample, SegmentationData
from segmentation.layouts import open_data
from segmentation.loading import batches
from segmentation.method import Method, parse
from segmentation.needs import check_needs
from segmentation.recipe import Network, Recipe, as_dict, listed
from segmentation.recipe_files import is_list
from segmentation.sections import Optimizer
from segmentation.state import State

# Settings that a warm-up depends on
MADE_BY_WARMUP = (
    *(f"network.{part.name}" for part in dataclasses.fields(Network) if part.name != "weights"),
    *(f"optimizer.{part.name}" for part in dataclasses.fields(Optimizer)),
    "loss.dice",
)
# and those that say which labels it learned from; studies lay methods of other labels over one warm-up.
LABELED_BY = tuple(f"data.{name}" for name in ("layout", "folder", "scenes", "labeled", "held_out", "val", "resize"))
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
WARM_UP = "warm-up"


@dataclass
class Progress:
    """Where a run is: what a checkpoint holds beside the state."""

    phase: str = WARM_UP  # or the name of the method that is being trained
    best: float = -1.0
    scores: dict = field(default_factory=dict)  # the phase's last
    seconds: float = 0.0  # of training alone, in this phase
    results: dict = field(default_factory=dict)  # of the methods that are done


@dataclass
class Run:
    """What does not change over a run."""

    recipe: Recipe
    data: SegmentationData
    out: Path
    device: torch.device
    crop: tuple[int, int]
    steps: int  # of each method
    log: report.Log
    progress: Progress
    rank: int
    ranks: int
    began_with: dict = field(default_factory=dict)  # the manifest of its data set

    @property
    def total(self) -> int:
        """Steps of the warm-up and of a method."""
        return self.recipe.schedule.warmup + self.steps

    @property
    def first_corrected(self) -> int:
        """The first step whose labels are corrected, of methods that correct."""
        return self.recipe.schedule.warmup + self.recipe.correct.after

    def share_of_correction(self, step: int) -> float:
        """What is left of the anchors' strength at a step, in [0, 1]; at 0 no label is corrected."""
        done, fade = step - self.first_corrected, self.recipe.correct.fade
        return 0.0 if done < 0 else 1.0 if fade is None else max(0.0, 1 - done / fade)

    def spans(self, phase: str, method: Method) -> list[tuple[int, int]]:
        """First and last step of a phase; of `rounds` one span a round, which share the steps of a method."""
        first, parts = self.recipe.schedule.warmup, self.recipe.schedule.rounds
        if phase == WARM_UP:
            return [(0, first)]
        if method.teaching != "rounds":
            return [(first, self.total)]
        edges = [first + self.steps * part // parts for part in range(parts + 1)]
        return list(zip(edges, edges[1:], strict=False))

    def batches(self, first: int, last: int, *, unlabeled: bool, samples: list[Sample] | None = None):
        """This process's batches for steps `first` to `last`; `samples` have labels, and stand for unlabeled ones."""
        where = {"flip": self.data.flip, "unlabeled": unlabeled, "rank": self.rank, "ranks": self.ranks}
        found = samples or (self.data.unlabeled if unlabeled else self.data.labeled)
        has_labels = samples is not None or not unlabeled
        return batches(found, self.recipe, self.crop, first, last, has_labels=has_labels, **where)

    def autocast(self) -> torch.autocast:
        """Mixed precision where the recipe asks for it."""
        precision = self.recipe.running.precision
        return torch.autocast(self.device.type, AUTOCAST.get(precision), enabled=precision in AUTOCAST)


def prepare(
    recipe: Recipe, out: Path, saved: dict[str, Any] | None, *, resume: bool, rank: int
) -> tuple[SegmentationData, tuple[int, int], dict[str, Any]]:
    """The data set, the crop, and the manifest of both; all that can be wrong with them is said here.

    A run that goes on has them as it began; the main process compares.
    """
    began_with = saved.get("began_with") if saved else None
    data = open_data(recipe.data, recipe.running.seed, out, write=rank == 0 and not began_with, goes_on=resume)
    expect_correction(recipe, number_of_steps(recipe, data))
    survey = check(data) if rank == 0 else None
    sums = survey.sums() if survey else {}
    if began_with:
        data = manifest.as_it_began(data, recipe, began_with, sums)
    crop = tuple(began_with["crop"]) if began_with else crop_of(recipe, data.labeled)
    if survey:
        check_needs(recipe, data, survey)
        report.notes(survey.notes)
    return data, crop, began_with or manifest.describe(data, recipe, crop, sums)


def crop_of(recipe: Recipe, samples: list[Sample]) -> tuple[int, int]:
    """The crop of the recipe, or one for images such as these."""
    return recipe.views.crop or usual_size(samples, recipe.data.resize)


def expect_unfinished(methods: tuple[str, ...], out: Path) -> None:
    """A run that is done has no checkpoint to go on from, and must not be run again by mistake."""
    if set(methods) <= report.methods_done(out / "results.json"):
        raise ValueError(f"the run in {out} is finished (results.json); without --resume it is run again")


def expect_correction(recipe: Recipe, steps: int) -> None:
    """A method of corrected labels corrects some: its correction begins before it ends."""
    after = recipe.correct.after
    if after >= steps and any(parse(name).correct for name in recipe.methods):
        raise ValueError(f"expected `correct.after` below `schedule.steps`, {steps}, got {after}: it corrects no label")


def expect_finite(phase: str, means: dict[str, float], state: State, run: Run, *, weights: bool) -> None:
    """Stop a run that has diverged before it is saved.

    Raises:
        ValueError: a number of the log, the same on every process, or with `weights` one of them is NaN or Inf.
    """
    wrong = [f"`{name}` is {value}" for name, value in means.items() if not math.isfinite(value)]
    if not wrong and weights:
        values = [value for value in state.model.state_dict().values() if value.is_floating_point()]
        if not torch.stack([value.isfinite().all() for value in values]).all():
            wrong = ["a weight is not finite"]
    if wrong:
        precision = run.recipe.running.precision
        lower = f", --precision fp32 rather than {precision}" if precision in AUTOCAST else ""
        raise ValueError(
            f"{phase} has diverged: {', '.join(wrong)} at step {state.step}; nothing of it has been saved. Begin anew "
            f"(--overwrite) with a --learning-rate below {run.recipe.optimizer.learning_rate}, a longer --warmup"
            f"{lower}, or look for images and labels that are not what they should be"
        )


def save(state: State, run: Run) -> None:
    """Save all that `run(..., resume=True)` needs; every process takes part, the main one writes."""
    random = processes.gather(checkpoint.random_state())
    if run.rank == 0:
        content = {"state": state.state_dict(), "random": random, "ranks": run.ranks, "log_bytes": run.log.written()}
        content |= {"progress": dict(vars(run.progress)), "began_with": run.began_with}
        checkpoint.save(content, run.out / "resume.pt")


def load_warmup(state: State, saved: dict, recipe: Recipe, class_names: list[str], source: str) -> None:
    """Put the warm-up of a run into `state`, with a note if it may have learned from other labels.

    Raises:
        ValueError: it was one of other classes, of another network or other settings; the message names the first.
    """
    expected = f"expected {source} to be the warmup.pt of a run with these settings"
    if not {"step", "model", "optimizer"} <= saved.keys():
        raise ValueError(f"{expected}, got a file without them: {', '.join(map(str, list(saved)[:5]))}")
    names = saved.get("class_names", class_names)
    if list(names) != list(class_names):
        raise ValueError(f"{expected}, got one of {len(names)} classes, {few(names)}; here: {few(class_names)}")
    before = saved.get("recipe", as_dict(recipe))
    for key, there, here in _differences(MADE_BY_WARMUP, before, recipe):
        raise ValueError(f"{expected}, got one of `{key}` {there}; here: {here}")
    seed = () if is_list(recipe.data.labeled) else ("running.seed",)  # which draws the labeled images
    others = [
        f"`{key}` {there}; here: {here}" for key, there, here in _differences((*LABELED_BY, *seed), before, recipe)
    ]
    if others and processes.is_first():
        report.notes([f"{source} may have learned from labels that no method is given here, it is one of {others[0]}"])
    if saved["step"] != recipe.schedule.warmup:
        raise ValueError(f"{expected}, got one of {saved['step']} steps, `schedule.warmup` is {recipe.schedule.warmup}")
    shapes = {name: tuple(weight.shape) for name, weight in state.model.state_dict().items()}
    other = {name: tuple(weight.shape) for name, weight in saved["model"].items()}
    wrong = [name for name in {**shapes, **other} if shapes.get(name) != other.get(name)]
    if wrong:
        raise ValueError(
            f"{expected}, got {len(wrong)} weights that differ, such as {wrong[0]}: "
            f"{other.get(wrong[0], 'none')} there, {shapes.get(wrong[0], 'none')} here"
        )
    try:
        state.load_warmup(saved)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{expected}: {' '.join(str(error).split())[:300]}") from error


def _differences(keys: Iterable[str], before: dict, recipe: Recipe) -> Iterator[tuple[str, Any, Any]]:
    """Those of dotted keys that a recipe, in plain values, has otherwise than ours: key, value there, value here."""
    for dotted in keys:
        section, key = dotted.split(".")
        there, here = before.get(section, {}).get(key, listed(Recipe().get(dotted))), listed(recipe.get(dotted))
        if there != here:
            yield dotted, there, here


def number_of_steps(recipe: Recipe, data: SegmentationData) -> int:
    """Steps of each method: given, or so many passes over the unlabeled images."""
    schedule = recipe.schedule
    return schedule.steps or schedule.epochs * -(-len(data.unlabeled) // schedule.unlabeled_batch)
