"""The loop: one supervised warm-up, then every method from that state, on the same batches, for as many steps."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from segmentation import checkpoint, manifest, measuring, processes, report
from segmentation.checking import check, usual_size
from segmentation.datasets import IGNORE_INDEX, SegmentationData
from segmentation.layouts import open_data
from segmentation.loading import Views, batches
from segmentation.methods import pseudo_label, remember_labeled, training_loss
from segmentation.needs import check_needs
from segmentation.recipe import Recipe, as_dict
from segmentation.state import State, build, dtype_of, load_warmup, new_correction
from segmentation.transforms import mix, strong_view

SUPERVISED = ("warm-up", "supervised")  # phases that see no unlabeled image
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Progress:
    """Where a run is: what a checkpoint holds beside the state."""

    phase: str = "warm-up"  # or the method that is being trained
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
        return self.recipe.schedule.warmup + self.steps

    def batches(self, first: int, last: int, *, hidden: bool):
        samples = self.data.unlabeled if hidden else self.data.labeled
        where = {"flip": self.data.flip, "hidden": hidden, "rank": self.rank, "ranks": self.ranks}
        return batches(samples, self.recipe, self.crop, first, last, **where)


def run(recipe: Recipe, out: Path, *, resume: bool = False) -> dict[str, dict]:
    """Run every method of the recipe and return what was measured, by method; files go to `out`.

    `resume` continues from `out/resume.pt`, if the run has come so far, and ends as it would have ended.
    """
    begin, device = time.perf_counter(), processes.join(recipe.running.device)
    recipe.running.device = device.type
    rank, ranks = processes.rank_and_ranks()
    saved = checkpoint.load_resume_point(out, ranks) if resume else None
    if resume and saved is None:
        expect_unfinished(recipe, out)
    if rank > 0:
        processes.barrier()  # the main process writes the embedded scenes and the drawn split
    data, crop, began_with = prepare(recipe, out, saved, resume=resume, rank=rank)
    if rank == 0:
        processes.barrier()
    progress = Progress(**saved["progress"]) if saved else Progress()
    tensorboard = out / "tensorboard" if recipe.running.tensorboard else None
    keep, cut = (saved["log_bytes"], (progress.phase, saved["state"]["step"])) if saved else (0, None)
    log = report.Log(out / "log.jsonl" if rank == 0 else None, keep, tensorboard, cut)
    run = Run(recipe, data, out, device, crop, number_of_steps(recipe, data), log, progress, rank, ranks, began_with)

    warm = build(recipe, len(data.class_names), device)
    if progress.phase == "warm-up":
        if recipe.schedule.start is not None:
            start = checkpoint.load(Path(recipe.schedule.start), device)
            load_warmup(warm, start, recipe, data.class_names, f"`schedule.start` (--start), {recipe.schedule.start},")
        else:
            train("warm-up", warm, run, recipe.schedule.warmup, saved)
        if rank == 0:
            made_by = {"recipe": as_dict(recipe), "class_names": list(data.class_names)}
            checkpoint.save(warm.state_dict() | made_by, out / "warmup.pt")
    else:
        load_warmup(warm, checkpoint.load(out / "warmup.pt", device), recipe, data.class_names, str(out / "warmup.pt"))

    for method in recipe.methods:
        if method in progress.results:
            continue
        is_resumed = saved is not None and progress.phase == method
        if not is_resumed:
            run.progress = progress = Progress(method, results=progress.results)
        state = copy.deepcopy(warm)  # weights, teacher, banks, momentum: as if the warm-up had been its own
        train(method, state, run, run.total, saved if is_resumed else None)
        measured = measuring.measure(method, state, run)
        progress.results[method] = progress.scores | {"seconds": progress.seconds} | measured
        if rank == 0:  # after each method: a run that is stopped keeps what it has
            seconds = time.perf_counter() - begin
            content = {"config": as_dict(recipe) | {"out": str(out)}, "seconds": seconds, "methods": progress.results}
            report.save_results(content, out / "results.json")
    if rank == 0:
        measuring.finish(run)
        (out / "resume.pt").unlink(missing_ok=True)
    return progress.results


def prepare(
    recipe: Recipe, out: Path, saved: dict[str, Any] | None, *, resume: bool, rank: int
) -> tuple[SegmentationData, tuple[int, int], dict[str, Any]]:
    """The data set, the crop, and the manifest of both; all that can be wrong with them is said here.

    A run that goes on has them as it began; the main process compares.
    """
    began_with = saved.get("began_with") if saved else None
    data = open_data(recipe.data, recipe.running.seed, out, write=rank == 0 and not began_with, goes_on=resume)
    survey = check(data) if rank == 0 else None
    sums = survey.sums() if survey else {}
    if began_with:
        data = manifest.as_it_began(data, recipe, began_with, sums)
    crop = tuple(began_with["crop"]) if began_with else recipe.views.crop or usual_size(data.labeled)
    if survey:
        check_needs(recipe, data, survey)
        report.notes(survey.notes)
    return data, crop, began_with or manifest.describe(data, recipe, crop, sums)


def expect_unfinished(recipe: Recipe, out: Path) -> None:
    """A run that is done has no checkpoint to go on from, and must not be run again by mistake."""
    if set(recipe.methods) <= report.methods_done(out / "results.json"):
        raise ValueError(f"the run in {out} is finished (results.json); without --resume it is run again")


def train(method: str, state: State, run: Run, last: int, saved: dict[str, Any] | None) -> None:
    """Train `state` in place until step `last`, from where `saved`, if given, has left it."""
    recipe, progress, rank = run.recipe, run.progress, run.rank
    begin = 0 if method == "warm-up" else recipe.schedule.warmup
    if saved is not None:
        state.load_state_dict(saved["state"])
        checkpoint.set_random_state(saved["random"][rank])
    else:
        checkpoint.seed_all(recipe.running.seed + 1000 * rank + 1 + state.step)  # dropout: each process its own
        if method == "mllc":
            state.banks.anchors = measuring.fresh_anchors(state, run)
    first, times = state.step, recipe.evaluation.times
    stops = {last - (last - begin) * part // times for part in range(times)} if method != "warm-up" else set()
    student = processes.shell(state.model.train())
    correction = new_correction(recipe)
    labeled = run.batches(first, last, hidden=False)
    unlabeled = itertools.repeat(None) if method in SUPERVISED else run.batches(first, last, hidden=True)
    bar = tqdm(range(first, last), f"{method:>13}", last, initial=first, disable=rank > 0, mininterval=1.0)
    is_read_for_free = run.device.type == "cpu" and run.ranks == 1  # a GPU would be waited for
    started = time.perf_counter()
    for _ in bar:
        parts = optimize(method, student, state, run, labeled, unlabeled, correction)
        is_kept = state.step in stops or state.step == last or state.step % recipe.running.checkpoint_every == 0
        is_logged = state.step % recipe.running.log_every == 0 or state.step == last
        if is_logged or is_kept or is_read_for_free:
            means = processes.mean_over_ranks(parts)
        if is_logged:
            shown = {name: round(value, 7) for name, value in means.items()}
            run.log.write(method=method, step=state.step, lr=state.optimizer.param_groups[0]["lr"], **shown)
            bar.set_postfix({name: f"{value:.3f}" for name, value in shown.items()}, refresh=False)
        if is_logged or is_kept or is_read_for_free:
            expect_finite(method, means, state, run, weights=is_kept)
        if is_kept:
            progress.seconds += time.perf_counter() - started
            if state.step in stops:
                measuring.test(method, state, run)
            save(state, run)
            started = time.perf_counter()


def expect_finite(method: str, means: dict[str, float], state: State, run: Run, *, weights: bool) -> None:
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
            f"{method} has diverged: {', '.join(wrong)} at step {state.step}; nothing of it has been saved. Begin anew "
            f"(--overwrite) with a --learning-rate below {run.recipe.optimizer.learning_rate}, a longer --warmup"
            f"{lower}, or look for images and labels that are not what they should be"
        )


def optimize(
    method: str,
    student: torch.nn.Module,
    state: State,
    run: Run,
    labeled: Iterator[Views],
    unlabeled: Iterator[Views | None],
    correction: torch.nn.Module | None,
) -> dict[str, Tensor]:
    """One step: the student learns, the teacher follows. Returns what goes to the log, of the last part of the step."""
    recipe, parts = run.recipe, run.recipe.schedule.accumulate
    for group in state.optimizer.param_groups:  # polynomial decay over warm-up and method together
        group["lr"] = group["peak"] * (1 - state.step / run.total) ** recipe.optimizer.power
    state.optimizer.zero_grad()
    for part in range(parts):
        # Gradients cross the processes once a step, with the last part.
        with student.no_sync() if run.ranks > 1 and part < parts - 1 else contextlib.nullcontext():
            with autocast(run):
                losses, extra = losses_of(method, student, state, run, next(labeled), next(unlabeled), correction)
            state.scaler.scale(sum(losses.values()) / parts).backward()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    # A young teacher must forget the random weights it began with: a plain mean first, a running one later.
    state.teacher.momentum = min(recipe.teacher.momentum, 1 - 1 / (state.step + 1))
    state.teacher.update(state.model)
    state.step += 1
    return losses | extra


def losses_of(
    method: str,
    student: torch.nn.Module,
    state: State,
    run: Run,
    labeled: Views,
    weak: Views | None,
    correction: torch.nn.Module | None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The losses of one batch by name, and what else goes to the log."""
    recipe, (images, labels, _) = run.recipe, on_device(labeled, run)
    unlabeled, extra = None, {}
    if weak is not None:
        if method == "mllc" and state.banks.anchors is not None:
            remember_labeled(state.teacher, images, labels, state.banks.anchors)
        weak_images, blank, draws = on_device(weak, run)
        inside, guided = blank != IGNORE_INDEX, recipe.refiner.guided
        pseudo = pseudo_label(method, state.teacher, weak_images, inside, state.banks, guided=guided)
        strong = strong_view(weak_images, draws)
        unlabeled = mix(strong, draws, pseudo.labels, pseudo.probabilities, kind=recipe.views.mix)
        extra = {"confidence": pseudo.probabilities.amax(1).mean(), "changed": pseudo.changed}
    losses = training_loss(
        "supervised" if method in SUPERVISED else method,
        student,
        (images, labels),
        unlabeled,
        state.banks,
        correction=correction,
        confidence=recipe.teacher.confidence,
        pixel_weight=recipe.loss.pixel_weight,
        soft=recipe.loss.soft,
    )
    return losses, extra


def on_device(views: Views, run: Run) -> tuple[Tensor, Tensor, Tensor]:
    """Images in [0, 1], labels, and what the strong view is to do."""
    images, labels, draws = (tensor.to(run.device, non_blocking=True) for tensor in views)
    return images.to(dtype_of(run.recipe)) / 255, labels.long(), draws


def autocast(run: Run) -> torch.autocast:
    """Mixed precision where the recipe asks for it."""
    precision = run.recipe.running.precision
    return torch.autocast(run.device.type, AUTOCAST.get(precision), enabled=precision in AUTOCAST)


def save(state: State, run: Run) -> None:
    """Save all that `run(..., resume=True)` needs; every process takes part, the main one writes."""
    random = processes.gather(checkpoint.random_state())
    if run.rank == 0:
        content = {"state": state.state_dict(), "random": random, "ranks": run.ranks, "log_bytes": run.log.written()}
        content |= {"progress": dict(vars(run.progress)), "began_with": run.began_with}
        checkpoint.save(content, run.out / "resume.pt")


def number_of_steps(recipe: Recipe, data: SegmentationData) -> int:
    """Steps of each method: given, or so many passes over the unlabeled images."""
    schedule = recipe.schedule
    return schedule.steps or schedule.epochs * -(-len(data.unlabeled) // schedule.unlabeled_batch)
