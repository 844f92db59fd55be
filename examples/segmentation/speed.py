"""How fast a recipe runs on this machine: steps with and without correction, and the loader alone."""

from __future__ import annotations

import itertools
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from segmentation import engine, processes, report
from segmentation.checking import usual_size
from segmentation.layouts import open_data
from segmentation.recipe import Recipe
from segmentation.state import build, new_correction


def measure(recipe: Recipe, out: Path, steps: int) -> dict[str, Any]:
    """Seconds and images per second: medians over `steps` steps of self_training and of mllc in turn, after two each.

    An image is a view, labeled or unlabeled. `share_of_correction` is what mllc's step takes beyond self_training's:
    graphs, losses of all rounds, and looking up anchors if the recipe has them.
    """
    device = processes.join(recipe.running.device)
    recipe.running.device = device.type
    data = open_data(recipe.data, recipe.running.seed, out, write=processes.is_first())
    rank, ranks = processes.rank_and_ranks()
    crop = recipe.views.crop or usual_size(data.labeled)
    run = engine.Run(recipe, data, out, device, crop, 2 * steps + 4, report.Log(None), engine.Progress(), rank, ranks)
    images = recipe.schedule.labeled_batch + recipe.schedule.unlabeled_batch

    loading = list(itertools.islice(_seconds_of(zip(*_loaders(run, steps), strict=True)), 1, None))
    state = build(recipe, len(data.class_names), device)
    student, correction = processes.shell(state.model.train()), new_correction(recipe)
    labeled, unlabeled = (itertools.cycle([next(loader)]) for loader in _loaders(run, 1))  # steps without loading
    seconds: dict[str, list[float]] = {"self_training": [], "mllc": []}
    for _ in range(steps + 2):
        for method, found in seconds.items():
            _wait(device)
            begin = time.perf_counter()
            engine.optimize(method, student, state, run, labeled, unlabeled, correction)
            _wait(device)
            found.append(time.perf_counter() - begin)
    without, within = (statistics.median(found[2:]) for found in seconds.values())
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "processes": ranks,
        "precision": recipe.running.precision,
        "crop": list(crop),
        "images_per_step": images,
        "seconds_without_correction": without,
        "seconds_with_correction": within,
        "images_per_second_without_correction": images / without,
        "images_per_second_with_correction": images / within,
        "share_of_correction": 1 - without / within,
        "loader_images_per_second": images / statistics.median(loading),
        "workers": recipe.running.workers,
        "samples": {method: found[2:] for method, found in seconds.items()},
    }


def _loaders(run: engine.Run, steps: int) -> list:
    return [run.batches(0, steps + 1, hidden=hidden) for hidden in (False, True)]


def _seconds_of(batches):
    """How long each batch was waited for."""
    begin = time.perf_counter()
    for _ in batches:
        yield time.perf_counter() - begin
        begin = time.perf_counter()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
