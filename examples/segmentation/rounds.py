"""Labels made in rounds (ST++, Yang et al., CVPR 2022): a frozen teacher labels all, a student learns, and is the next.

Each round begins where the warm-up ended. Differs from ST++: no image is left out for being unreliable.
"""

from __future__ import annotations

from pathlib import Path

import torch

from graphcorrect.files.stored_masks import StoredMask, write_stored_mask
from segmentation import checkpoint, evaluation, processes
from segmentation.datasets import Sample
from segmentation.keys import LabeledPixels
from segmentation.method import Method
from segmentation.running import Run
from segmentation.state import State


def folder_of(run: Run, method: Method, number: int) -> Path:
    """Where the labels of a round are."""
    return run.out / str(method) / f"labels_{number}"


def labeled_by_round(run: Run, method: Method, number: int) -> list[Sample]:
    """The unlabeled images with the labels that the teacher of a round gave them."""
    place = folder_of(run, method, number)
    return [Sample(sample.image, place / f"{index:06d}.png") for index, sample in enumerate(run.data.unlabeled)]


@torch.no_grad()
def label_all(
    run: Run, method: Method, number: int, state: State, anchors: LabeledPixels | None, *, correct: bool
) -> None:
    """Write what the teacher says of every unlabeled image, with `correct` as the method corrects it: PNGs of ids.

    Every process labels its share; all wait until the last one is done.
    """
    corrector = evaluation.Corrector(method.correct, evaluation.on_its_own(state.teacher.module.refiner), anchors)
    samples = labeled_by_round(run, method, number)
    for sample in samples[run.rank :: run.ranks]:
        images = evaluation.read_one(sample.image, run.recipe, run.device)
        output, _ = state.teacher(images)
        if correct:
            labels = corrector.labels(output, images, images, guided=run.recipe.refiner.guided)
        else:
            labels = evaluation.plain_labels(output, images, images)
        write_stored_mask(sample.mask, StoredMask(labels[0].to(torch.uint8).cpu().numpy()))
    processes.barrier()


def begin(run: Run, method: Method, number: int, state: State, anchors: LabeledPixels | None, *, correct: bool) -> None:
    """Label all images with the teacher that the round before has made, and put the student back to the warm-up."""
    label_all(run, method, number, state, anchors, correct=correct)
    state.load_warmup(checkpoint.load(run.out / "warmup.pt", run.device) | {"step": state.step})
