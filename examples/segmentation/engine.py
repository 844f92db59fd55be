"""The loop: one supervised warm-up, then every method from that state, on the same batches, for as many steps.

To understand one training, read this page, `teaching.py` (what a method asks of the student), `losses.py`, `model.py`,
`method.py` and `state.py` (what is trained, and how it is built). How a run begins, stops and is saved is in `running`.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from tqdm import tqdm

from segmentation import checkpoint, measuring, processes, report, rounds
from segmentation.datasets import IGNORE_INDEX
from segmentation.loading import Views, share_of
from segmentation.method import Method, parse
from segmentation.recipe import Recipe, as_dict
from segmentation.running import (
    WARM_UP,
    Progress,
    Run,
    expect_finite,
    expect_unfinished,
    load_warmup,
    number_of_steps,
    prepare,
    save,
)
from segmentation.state import State, build, dtype_of, new_correction
from segmentation.teaching import Stream, pseudo_label, streams_of, training_loss, update_anchors
from segmentation.transforms import mix, strong_view


def run(recipe: Recipe, out: Path, *, resume: bool = False, methods: tuple[str, ...] | None = None) -> dict[str, dict]:
    """Run every method of the recipe and return what was measured, by method; files go to `out`.

    `resume` continues from `out/resume.pt`, if the run has come so far, and ends as it would have ended. `methods` are
    those to run, where other runs train the others of the recipe: what each teacher is asked is the same for all.
    """
    methods = recipe.methods if methods is None else methods
    begin, device = time.perf_counter(), processes.join(recipe.running.device)
    recipe.running.device = device.type
    rank, ranks = processes.rank_and_ranks()
    for unlabeled in {False, *(parse(name).uses_unlabeled for name in methods)}:
        share_of(recipe, ranks, unlabeled=unlabeled)  # refused now rather than after the warm-up
    saved = checkpoint.load_resume_point(out, ranks) if resume else None
    if resume and saved is None:
        expect_unfinished(methods, out)
    if rank > 0:
        processes.barrier()  # the main process writes the embedded scenes and the drawn split
    data, crop, began_with = prepare(recipe, out, saved, resume=resume, rank=rank)
    if rank == 0:
        processes.barrier()
    if saved is None and rank == 0:
        (out / "results.json").unlink(missing_ok=True)  # of another run, which this one would be taken for
    progress = Progress(**saved["progress"]) if saved else Progress()
    tensorboard = out / "tensorboard" if recipe.running.tensorboard else None
    keep, cut = (saved["log_bytes"], (progress.phase, saved["state"]["step"])) if saved else (0, None)
    log = report.Log(out / "log.jsonl" if rank == 0 else None, keep, tensorboard, cut)
    run = Run(recipe, data, out, device, crop, number_of_steps(recipe, data), log, progress, rank, ranks, began_with)

    warm = build(recipe, len(data.class_names), device)
    if progress.phase == WARM_UP:
        if recipe.schedule.start is not None:
            start = checkpoint.load(Path(recipe.schedule.start), device)
            load_warmup(warm, start, recipe, data.class_names, f"`schedule.start` (--start), {recipe.schedule.start},")
        else:
            train(WARM_UP, Method(), warm, run, saved)
        if rank == 0:
            made_by = {"recipe": as_dict(recipe), "class_names": list(data.class_names)}
            checkpoint.save(warm.state_dict(banks=False) | made_by, out / "warmup.pt")
        processes.barrier()  # rounds begin with that file
    else:
        load_warmup(warm, checkpoint.load(out / "warmup.pt", device), recipe, data.class_names, str(out / "warmup.pt"))

    for name in methods:
        if name in progress.results:
            continue
        is_resumed = saved is not None and progress.phase == name
        if not is_resumed:
            run.progress = progress = Progress(name, results=progress.results)
        state = copy.deepcopy(warm)  # weights, teacher, banks, momentum: as if the warm-up had been its own
        train(name, parse(name), state, run, saved if is_resumed else None)
        measured = measuring.measure(parse(name), state, run)
        progress.results[name] = progress.scores | {"seconds": progress.seconds} | measured
        if rank == 0:  # after each method: a run that is stopped keeps what it has
            seconds = time.perf_counter() - begin
            content = {"config": as_dict(recipe) | {"out": str(out)}, "seconds": seconds, "methods": progress.results}
            report.save_results(content, out / "results.json")
    if rank == 0:
        measuring.finish(run)
        (out / "resume.pt").unlink(missing_ok=True)
    return progress.results


def train(phase: str, method: Method, state: State, run: Run, saved: dict[str, Any] | None) -> None:
    """Train `state` in place through a phase, from where `saved`, if given, has left it."""
    recipe, spans = run.recipe, run.spans(phase, method)
    if saved is not None:
        state.load_state_dict(saved["state"])
        checkpoint.set_random_state(saved["random"][run.rank])
    else:
        checkpoint.seed_all(recipe.running.seed + 1000 * run.rank + 1 + state.step)  # dropout: each process its own
    begin, end, times = spans[0][0], spans[-1][1], recipe.evaluation.times
    stops = {end - (end - begin) * part // times for part in range(times)} if phase != WARM_UP else set()
    student, correction = processes.wrap_ddp(state.model.train()), new_correction(recipe)
    bar = tqdm(total=end, desc=f"{phase:>13}", initial=state.step, disable=run.rank > 0, mininterval=1.0)
    is_read_for_free = run.device.type == "cpu" and run.ranks == 1  # a GPU would be waited for
    for number, (first, last) in enumerate(spans):
        if state.step >= last:
            continue
        started = time.perf_counter()
        labeled, unlabeled = begin_span(method, state, run, number, first, last)
        for _ in range(state.step, last):
            if method.uses_anchors and method.teaching != "rounds" and state.step == run.first_corrected:
                state.banks.anchors = measuring.fresh_anchors(state, run)
            parts = optimize(method, student, state, run, labeled, unlabeled, correction, span=(first, last))
            is_kept = state.step in stops or state.step == last or state.step % recipe.running.checkpoint_every == 0
            is_logged = state.step % recipe.running.log_every == 0 or state.step == last
            bar.update()
            if is_logged or is_kept or is_read_for_free:
                means = processes.mean_over_ranks(parts)
                if is_logged:
                    shown = {name: round(value, 7) for name, value in means.items()}
                    run.log.write(method=phase, step=state.step, lr=state.optimizer.param_groups[0]["lr"], **shown)
                    bar.set_postfix({name: f"{value:.3f}" for name, value in shown.items()}, refresh=False)
                expect_finite(phase, means, state, run, weights=is_kept)
            if is_kept:
                run.progress.seconds += time.perf_counter() - started
                if state.step in stops:
                    measuring.test(method, state, run)
                save(state, run)
                started = time.perf_counter()
    bar.close()


def begin_span(
    method: Method, state: State, run: Run, number: int, first: int, last: int
) -> tuple[Iterator[Views], Iterator[Views | None]]:
    """Batches of labeled and of unlabeled images for steps `state.step` to `last`; a round begins with its labels."""
    labeled = run.batches(state.step, last, unlabeled=False)
    if not method.uses_unlabeled:
        return labeled, itertools.repeat(None)
    if method.teaching != "rounds":
        return labeled, run.batches(state.step, last, unlabeled=True)
    if state.step == first:
        share = run.share_of_correction(state.step)
        correct = bool(method.correct) and share > 0
        anchors = measuring.fresh_anchors(state, run) if method.uses_anchors and correct else None
        if anchors is not None:
            anchors.strength *= share
        rounds.begin(run, method, number, state, anchors, correct=correct)
    return labeled, run.batches(state.step, last, unlabeled=True, samples=rounds.labeled_by_round(run, method, number))


def optimize(
    method: Method,
    student: nn.Module,
    state: State,
    run: Run,
    labeled: Iterator[Views],
    unlabeled: Iterator[Views | None],
    correction: nn.Module | None,
    *,
    span: tuple[int, int] | None = None,
) -> dict[str, Tensor]:
    """One step: the student learns, the teacher follows. Returns what goes to the log, of the last part of the step."""
    recipe, parts, warmup = run.recipe, run.recipe.schedule.accumulate, run.recipe.schedule.warmup
    # Polynomial decay over warm-up and method together; to a round it is as if no other had been.
    first, last = span if method.teaching == "rounds" else (warmup, run.total)
    done = (state.step - first + warmup) / (last - first + warmup)
    for group in state.optimizer.param_groups:
        group["lr"] = group["peak"] * (1 - done) ** recipe.optimizer.power
    state.optimizer.zero_grad()
    for part in range(parts):
        # Gradients cross the processes once a step, with the last part.
        with student.no_sync() if run.ranks > 1 and part < parts - 1 else contextlib.nullcontext():
            with run.autocast():
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
    method: Method,
    student: nn.Module,
    state: State,
    run: Run,
    labeled: Views,
    weak: Views | None,
    correction: nn.Module | None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The losses of one batch by name, and what else goes to the log."""
    recipe, (images, labels, _, places) = run.recipe, on_device(labeled, run)
    if weak is None:
        return training_loss(method, student, (images, labels), [], state.banks, recipe), {}
    weak_images, blank, draws, weak_places = on_device(weak, run)
    if method.teaching == "rounds":  # the labels are those of the round's teacher
        strong = strong_view(weak_images, draws[:, 0], recipe.views.blur)
        mixed = mix(strong, draws[:, 0], blank, kind=recipe.views.mix)
        return training_loss(method, student, (images, labels), [Stream(*mixed)], state.banks, recipe), {}
    share = run.share_of_correction(state.step) if method.correct else 0.0
    if share > 0 and method.uses_anchors:
        state.banks.anchors.strength = recipe.anchors.strength * share
        update_anchors(state.teacher, images, labels, state.banks.anchors, places)
    inside, guided = blank != IGNORE_INDEX, recipe.refiner.guided
    asked = method if share > 0 else Method(method.teaching)
    # Thresholds that count over all of training count in the student's graphs where those learn, else in the teacher's.
    counts = not method.graph_losses or correction is None
    options = {"places": weak_places, "guided": guided, "counts": counts}
    pseudo = pseudo_label(asked, state.teacher, weak_images, inside, state.banks, **options)
    if counts:  # the teacher takes over what the student has
        state.model.refiner.threshold.counts.copy_(state.teacher.module.refiner.threshold.counts)
    streams = streams_of(method, weak_images, draws, pseudo, recipe, state.model.network.widths)
    losses = training_loss(method, student, (images, labels), streams, state.banks, recipe, correction)
    return losses, {"confidence": pseudo.confidence, "changed": pseudo.changed}


def on_device(views: Views, run: Run) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images in [0, 1], labels, what the strong views are to do, and where in their images the views lie."""
    images, labels, draws, places = (tensor.to(run.device, non_blocking=True) for tensor in views)
    return images.to(dtype_of(run.recipe)) / 255, labels.long(), draws, places
