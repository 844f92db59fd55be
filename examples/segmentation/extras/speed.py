"""How fast a recipe runs on this machine: a step of each of its methods, and the loader alone."""

from __future__ import annotations

import itertools
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from segmentation import engine, measuring, processes, report
from segmentation.layouts import open_data
from segmentation.method import parse
from segmentation.recipe import Recipe
from segmentation.running import Progress, Run, crop_of
from segmentation.state import build, new_correction


def measure(recipe: Recipe, out: Path, steps: int) -> dict[str, Any]:
    """Seconds a step of each of the recipe's methods, medians over `steps` steps of all in turn, after two each.

    An image is one of a batch, labeled or unlabeled, in however many views. `share_of_correction` is what the step of
    a method takes beyond that of the same teaching without correction: graphs, look-ups, and losses of graphs that
    learn; of pairs that the recipe has.
    """
    device = processes.join(recipe.running.device)
    recipe.running.device = device.type
    data = open_data(recipe.data, recipe.running.seed, out, write=processes.is_first())
    rank, ranks = processes.rank_and_ranks()
    crop = crop_of(recipe, data.labeled)
    run = Run(recipe, data, out, device, crop, 2 * steps + 4, report.Log(None), Progress(), rank, ranks)
    schedule = recipe.schedule

    loading = list(itertools.islice(_seconds_of(zip(*_loaders(run, steps), strict=True)), 1, None))
    state, methods = build(recipe, len(data.class_names), device), [parse(name) for name in recipe.methods]
    student, correction = processes.wrap_ddp(state.model.train()), new_correction(recipe)
    if state.banks.anchors is not None:
        state.banks.anchors = measuring.fresh_anchors(state, run)
    labeled, unlabeled = (itertools.cycle([next(loader)]) for loader in _loaders(run, 1))  # steps without loading
    nothing = itertools.repeat(None)
    samples: dict[str, list[float]] = {str(method): [] for method in methods}
    recipe.correct.after, recipe.correct.fade = 0, None
    for _ in range(steps + 2):
        for method in methods:
            state.step = schedule.warmup
            _wait(device)
            begin = time.perf_counter()
            seen = unlabeled if method.uses_unlabeled else nothing
            engine.optimize(method, student, state, run, labeled, seen, correction, span=(0, run.total))
            _wait(device)
            samples[str(method)].append(time.perf_counter() - begin)
    samples = {name: found[2:] for name, found in samples.items()}
    seconds = {name: statistics.median(found) for name, found in samples.items()}
    images = {str(m): schedule.labeled_batch + schedule.unlabeled_batch * m.uses_unlabeled for m in methods}
    pairs = {str(method): method.teaching for method in methods if method.correct and method.teaching in seconds}
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processes": ranks,
        "precision": recipe.running.precision,
        "crop": list(crop),
        "seconds_per_step": seconds,
        "images_per_second": {name: images[name] / taken for name, taken in seconds.items()},
        "share_of_correction": {name: 1 - seconds[without] / seconds[name] for name, without in pairs.items()},
        "peak_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        "loader_images_per_second": (schedule.labeled_batch + schedule.unlabeled_batch)
        / (schedule.accumulate * statistics.median(loading)),
        "workers": recipe.running.workers,
        "samples": samples,
    }


def _loaders(run: Run, steps: int) -> list:
    return [run.batches(0, steps + 1, unlabeled=unlabeled) for unlabeled in (False, True)]


def _seconds_of(batches):
    """How long each batch was waited for."""
    begin = time.perf_counter()
    for _ in batches:
        yield time.perf_counter() - begin
        begin = time.perf_counter()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
