"""What a run measures on its way and at the end of each method, and the pictures and checkpoints it leaves there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from segmentation import checkpoint, deployment, evaluation, figures, report
from segmentation.datasets import Sample, with_masks
from segmentation.keys import LabeledPixels
from segmentation.method import CORRECTIONS, Method, parse
from segmentation.processes import rank_and_ranks
from segmentation.recipe import Recipe, as_dict
from segmentation.state import State, dtype_of, new_correction, new_refiner
from segmentation.teaching import update_anchors

if TYPE_CHECKING:
    from segmentation.running import Run


def test(method: Method, state: State, run: Run) -> None:
    """Score student and teacher, judge the pseudo-labels of now, and save the last and the best checkpoint."""
    scores, data = {}, run.data
    networks = {"student": state.model, "teacher": state.teacher.module}
    for prefix, samples in (("", data.test), ("held_out_", data.held_out)):
        for name, model in networks.items() if samples else ():
            found = evaluation.test(model, samples, data.class_names, run.recipe, run.crop)
            scores |= {f"{prefix}{name}_{what}": value for what, value in found.items()}
    quality = pseudo_label_quality(method, state, run)
    run.log.write(method=str(method), step=state.step, **scores, **quality)
    progress, best_by = run.progress, f"teacher_{headline(run.recipe)}"
    if run.rank == 0:
        content = {
            "recipe": as_dict(run.recipe),
            "method": str(method),
            "class_names": list(data.class_names),
            "layout": data.layout,
            "crop": list(run.crop),
            "step": state.step,
            "model": state.model.state_dict(),
            "teacher": state.teacher.module.state_dict(),
            "banks": state.banks.state_dict(),
        }
        for name in ["last", "best"] if scores[best_by] > progress.best else ["last"]:
            checkpoint.save(content, run.out / str(method) / f"{name}.pt")
    progress.best, progress.scores = max(progress.best, scores[best_by]), scores


def headline(recipe: Recipe) -> str:
    """The score by which the recipe's methods are compared."""
    return "miou" if recipe.evaluation.dice == "none" else "dice"


def pseudo_label_quality(method: Method, state: State, run: Run) -> dict[str, float]:
    """Scores of the teacher's labels, before and after correction, as training makes them now: for the log."""
    correctors = {}
    if method.correct and method.teaching != "rounds" and run.share_of_correction(state.step - 1) > 0:
        refiner = evaluation.on_its_own(state.teacher.module.refiner)
        correctors["after"] = evaluation.Corrector(method.correct, refiner, state.banks.anchors)
    judged = judged_samples(run)
    found = evaluation.judge_pseudo_labels(state.teacher.module, judged, correctors, run.data.class_names, run.recipe)
    kept = ("miou", "dice")
    return {f"pseudo_{name}_{key}": values[key] for name, values in found.items() for key in kept if key in values}


def judged_samples(run: Run) -> list[Sample]:
    """The unlabeled images that labels are judged on, evenly spread: neighbors in a list may be of one video."""
    samples = with_masks(run.data.unlabeled)
    count = min(run.recipe.evaluation.judged, len(samples))
    return [samples[number * len(samples) // count] for number in range(count)]


def measure(method: Method, state: State, run: Run) -> dict:
    """The teacher's pseudo-labels on unlabeled training images, before and after correction, and a picture of some.

    By all that any method of the recipe corrects with, so that every teacher is asked the same.
    """
    device, num_classes = run.device, len(run.data.class_names)
    trained = method.graph_losses and new_correction(run.recipe) is not None
    untrained = evaluation.on_its_own(new_refiner(run.recipe, num_classes).to(device, dtype_of(run.recipe)))
    anchors = fresh_anchors(state, run)
    refiner = evaluation.on_its_own(state.teacher.module.refiner) if trained else untrained
    used = {each for name in run.recipe.methods for each in parse(name).correct} or {"graphs"}
    correct = tuple(each for each in CORRECTIONS if each in used)
    correctors = {"corrected": evaluation.Corrector(correct, refiner, anchors)}
    correctors["without_anchors"] = evaluation.Corrector(("graphs",), refiner)
    if trained:
        correctors["untrained"] = evaluation.Corrector(correct, untrained, anchors)
        correctors["untrained_without_anchors"] = evaluation.Corrector(("graphs",), untrained)
    judged = judged_samples(run)
    teacher = state.teacher.module
    found = evaluation.judge_pseudo_labels(teacher, judged, correctors, run.data.class_names, run.recipe)
    if run.rank == 0:
        examples = []
        for sample in judged[:: max(1, len(judged) // 6)][:6]:
            image, truth = evaluation.one_image(sample, run.recipe, device)
            output, _ = state.teacher(image)
            before = evaluation.plain_labels(output, image, truth)
            after = correctors["corrected"].labels(output, image, truth, guided=run.recipe.refiner.guided)
            pictured = evaluation.resized(image, truth.shape[-2:])[0].clamp(0, 1)
            labels = (each[0].cpu() for each in (truth, before, after))
            examples.append(figures.CorrectionExample((pictured * 255).byte().cpu(), *labels))
        note = "trained refiner" if trained else "untrained refiner"
        palette = figures.palette(run.data.layout)
        figures.draw_corrections(examples, run.out / f"pseudo_labels_{method}.png", f"{method}, {note}", palette)
    found = {"refiner_trained": trained, "correct": list(correct), "pseudo_labels": found}
    if run.recipe.evaluation.deployed:
        refiner = evaluation.on_its_own(state.model.refiner) if trained else untrained
        own = fresh_anchors(state, run, model=state.model)
        found["deployed"] = deployment.measure(state.model, evaluation.Corrector(correct, refiner, own), run)
    return found


@torch.no_grad()
def fresh_anchors(state: State, run: Run, model: nn.Module | None = None) -> LabeledPixels | None:
    """A bank filled with the labeled images as they are, seen by the teacher as it is now, or by `model`.

    None without anchors.
    """
    if state.banks.anchors is None:
        return None
    seen_by = state.teacher if model is None else model.eval()
    anchors, ranks, device = state.banks.anchors.fresh(), rank_and_ranks()[1], run.device
    anchors.strength = run.recipe.anchors.strength  # whatever training has left of it
    decay, anchors.decay = anchors.decay, 1.0  # an update here is an image and no step: none is older than another
    own_share = evaluation.batches(run.data.labeled, run.recipe, device, limit=1)
    for _ in range(-(-len(run.data.labeled) // ranks)):
        batch = next(own_share, None)
        if batch is not None:
            update_anchors(seen_by, *batch, anchors)
        else:  # every rank must take part in every update, also the one with an image less
            nothing = (
                torch.zeros(0, anchors.feature_dim, device=device, dtype=dtype_of(run.recipe)),
                torch.zeros(0, dtype=torch.int64, device=device),
            )
            anchors.update(*nothing)
    anchors.decay = decay
    return anchors


def finish(run: Run) -> None:
    """The curves and the table of a run that is done."""
    data, results, warmup = run.data, run.progress.results, run.recipe.schedule.warmup
    figures.draw_curves(run.out / "log.jsonl", run.out / "curves.png", warmup)
    figures.draw_quality(run.out / "log.jsonl", run.out / "pseudo_label_quality.png")
    kinds = f"{len(data.labeled)} labeled, {len(data.unlabeled)} unlabeled, {len(data.test)} test images"
    report.print_table(results, f"{kinds}; {warmup} + {run.steps} steps; seed {run.recipe.running.seed}")
    report.print_deployed(results)
