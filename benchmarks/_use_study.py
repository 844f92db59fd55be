"""Students in use: what the one call adds to each of them, beside test-time augmentation and on top of it."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _frozen_study import Score, study_recipe
from _records import save_record
from _training_study import trained, trained_as
from segmentation import evaluation
from segmentation.backbones import lite0_weights
from segmentation.datasets import Sample, with_masks
from segmentation.deployment import ALL, AUGMENTED, CORRECTED, PLAIN, SCALES
from segmentation.layouts import open_data
from segmentation.recipe import Recipe
from segmentation.trained import Trained, open_checkpoint
from torch import Tensor
from tqdm import tqdm

from graphcorrect import SegmentationCorrector

ENCODER, PRESET = "timm:tf_efficientnet_lite0", "fast"  # the command's preset


def main(args: argparse.Namespace) -> None:
    results = []
    for seed in args.seeds:
        recipe, folder = study_recipe(args, seed), args.runs / f"seed{seed}"
        recipe.schedule.start, recipe.running.precision = str(folder / "warmup.pt"), "fp32"
        data = open_data(recipe.data, seed, folder)
        corrector = fitted(data.labeled, len(data.class_names), recipe)
        for method in args.methods or recipe.methods:
            trained(recipe, method, folder / method)
            student = open_student(folder / method, method)
            student.recipe.running.precision = "fp32"
            for split, samples in {"held_out": with_masks(data.held_out), "test": data.test}.items():
                judged = samples[:4] if args.smoke else samples[:: args.every]
                if not judged:
                    continue
                for way, found in in_use(student, corrector, judged, f"seed {seed}, {method}, {split}").items():
                    of_what = {"seed": seed, "method": method, "split": split, "way": way, "images": len(judged)}
                    results.append(of_what | found)
        # After each seed: a study that is stopped keeps what it has
        settings = {"every": args.every, "encoder": ENCODER, "preset": PRESET, "scales": SCALES}
        content = {"classes": list(data.class_names), "results": results}
        name = "label_correction_use" + (f"_{args.recipe}" if args.recipe else "")
        save_record(name, content, device=torch.device("cpu"), folder=args.out, **settings)


def fitted(labeled: list[Sample], classes: int, recipe: Recipe) -> SegmentationCorrector:
    """The one call, with every labeled image."""
    corrector = SegmentationCorrector(classes, ENCODER, weights=lite0_weights(), preset=PRESET)
    device = torch.device("cpu")
    return corrector.fit(evaluation.one_image(sample, recipe, device) for sample in tqdm(labeled, "labeled images"))


def open_student(folder: Path, method: str) -> Trained:
    """A method's network, as it was at its last step."""
    return open_checkpoint(folder / trained_as(method) / "last.pt", "model", torch.device("cpu"))


@torch.no_grad()
def in_use(
    student: Trained, corrector: SegmentationCorrector, samples: list[Sample], title: str
) -> dict[str, dict[str, Any]]:
    """By way of use, the scores against the plain student, and seconds an image."""
    settings = student.recipe.evaluation
    augmented = replace(settings, scales=SCALES, flip=student.recipe.views.flip)
    scores = {way: Score(len(student.class_names)) for way in (PLAIN, CORRECTED, AUGMENTED, ALL)}
    seconds = dict.fromkeys(scores, 0.0)
    for sample in tqdm(samples, title):
        images, labels = evaluation.one_image(sample, student.recipe, torch.device("cpu"))
        found: dict[str, Tensor] = {}
        for (way, then), how in {(PLAIN, CORRECTED): settings, (AUGMENTED, ALL): augmented}.items():
            begin = time.perf_counter()
            found[way] = evaluation.predict(student.model, images, how, student.crop)
            middle = time.perf_counter()
            found[then] = corrector(images, probabilities=found[way]).probabilities
            seconds[way] += middle - begin
            seconds[then] += time.perf_counter() - begin
        for way, score in scores.items():
            score.add(found[PLAIN], found[way].argmax(1), labels)
    for way, score in scores.items():
        print(f"{title}, {way}: {score}", flush=True)
    return {way: score.result() | {"seconds": seconds[way] / len(samples)} for way, score in scores.items()}
