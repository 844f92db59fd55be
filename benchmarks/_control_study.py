"""What else makes masks better without training, alone and under the correction, on the frozen study's teacher."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from _frozen_study import CAPACITY, Answer, Score, answer, filled_bank, frozen_teacher, guided, pixels
from _records import save_record
from segmentation import evaluation
from segmentation.datasets import with_masks
from segmentation.deployment import SCALES
from segmentation.networks import SegmentationNetwork
from segmentation.sections import Evaluation
from torch import Tensor
from tqdm import tqdm

from graphcorrect import DualGraphRefiner, metrics

# Of the dense CRF (Kraehenbuehl and Koltun, 2011): the best of 36 on a third of the held-out frames of seed 0
CRF = {"smooth_width": 1.0, "smooth_weight": 1.0, "color_width": 10.0, "color_scale": 5.0, "color_weight": 1.0}
CRF_STEPS = 5
PRIORS = (0.5, 1.0)  # exponents by which a class is made rarer where it is frequent
Control = Callable[[Answer], Tensor]


def main(args: argparse.Namespace) -> None:
    results = []
    for seed in args.seeds:
        recipe, data, network, encoder = frozen_teacher(args, seed)
        classes = len(data.class_names)
        labeled = [answer(network, encoder, sample) for sample in tqdm(data.labeled, f"seed {seed}, labeled")]
        bank = filled_bank(labeled, classes, lambda said: said.keys)
        refiner = DualGraphRefiner.from_preset("paper", classes, recipe.network.feature_dim).eval()

        def whole(said: Answer, bank=bank, refiner=refiner) -> Tensor:
            logits = said.probabilities.clamp_min(1e-8).log()
            return guided(refiner(said.embedding, logits, anchors=bank, anchor_features=said.keys).soft_labels, said)

        sides = controls(network, bank, priors_of(labeled, classes), mirrors=recipe.views.flip)
        for split, samples in {"held_out": with_masks(data.held_out), "test": data.test}.items():
            judged = samples[:4] if args.smoke else samples[:: args.every]
            scores: dict[tuple[str, str], Score] = {}
            for sample in tqdm(judged, f"seed {seed}, {split}"):
                said = answer(network, encoder, sample)
                before = pixels(said.probabilities, said)
                for key, after in judged_ways(said, sides, whole):
                    scores.setdefault(key, Score(classes)).add(before, after.argmax(1), said.labels)
            for (name, then), score in scores.items():
                result = {"seed": seed, "split": split, "control": name, "then": then, "images": len(judged)}
                results.append(result | score.result())
                print(f"seed {seed}, {split}, {name}{then and ', '}{then}: {score}", flush=True)
        settings = {"capacity": CAPACITY, "every": args.every, "crf": CRF | {"steps": CRF_STEPS}, "scales": SCALES}
        content = {"classes": list(data.class_names), "results": results}
        save_record("label_correction_controls", content, device=torch.device("cpu"), folder=args.out, **settings)


@torch.no_grad()
def judged_ways(said: Answer, sides: dict[str, Control], whole: Control) -> Iterator[tuple[tuple[str, str], Tensor]]:
    """Each control alone, with the correction on top, and the CRF after the correction: names and probabilities."""
    for name, control in sides.items():
        found = control(said)
        yield (name, ""), found
        corrected = whole(said if name == "teacher" else saying(said, found))
        yield (name, "whole"), corrected
        if name == "teacher" and "dense CRF" in sides:
            yield (name, "whole, dense CRF"), dense_crf(corrected, said.image)


def controls(network: SegmentationNetwork, bank: Any, priors: Tensor, *, mirrors: bool) -> dict[str, Control]:
    """By name, what turns an answer into probabilities of every pixel (1, C, H, W), without the correction."""
    looks = Evaluation(scales=SCALES, flip=mirrors)

    def augmented(said: Answer) -> Tensor:
        return evaluation.predict(lambda images: (network(images), None), said.image, looks, (0, 0))

    def adjusted(said: Answer, exponent: float) -> Tensor:
        weighted = pixels(said.probabilities, said) / priors[:, None, None] ** exponent
        return weighted / weighted.sum(1, keepdim=True)

    found: dict[str, Control] = {
        "teacher": lambda said: pixels(said.probabilities, said),
        "mirrored, three sizes": augmented,
        "anchors in place of the teacher": lambda said: pixels(bank(said.keys), said),
    }
    for exponent in PRIORS:
        found[f"class prior ^ {exponent:g}"] = lambda said, exponent=exponent: adjusted(said, exponent)
    if importlib.util.find_spec("pydensecrf") is None:
        print("without a dense CRF: pip install pydensecrf2, which wants a compiler", file=sys.stderr)
    else:
        found["dense CRF"] = lambda said: dense_crf(pixels(said.probabilities, said), said.image)
    return found


def saying(said: Answer, found: Tensor) -> Answer:
    """An answer with the probabilities of every pixel (1, C, H, W), averaged over its cells."""
    size = said.probabilities.shape[-2:]
    return said._replace(probabilities=F.interpolate(found, size=size, mode="bilinear", antialias=True))


def priors_of(labeled: list[Answer], classes: int) -> Tensor:
    """Shares of the classes among the labeled pixels, (C,)."""
    each = [metrics.confusion_matrix(said.labels, said.labels, classes).diag() for said in labeled]
    counts = torch.stack(each).sum(0)
    return counts.clamp_min(1) / counts.sum()


def dense_crf(probabilities: Tensor, image: Tensor, settings: dict[str, float] = CRF) -> Tensor:
    """Mean field of a fully connected CRF, (1, C, H, W), of an image (1, 3, H, W) in [0, 1]."""
    from pydensecrf.densecrf import DenseCRF2D
    from pydensecrf.utils import unary_from_softmax

    _, classes, height, width = probabilities.shape
    crf = DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(probabilities[0].numpy())))
    crf.addPairwiseGaussian(sxy=settings["smooth_width"], compat=settings["smooth_weight"])
    colors = np.ascontiguousarray((image[0].movedim(0, -1) * 255).round().byte().numpy())
    crf.addPairwiseBilateral(
        sxy=settings["color_width"], srgb=settings["color_scale"], rgbim=colors, compat=settings["color_weight"]
    )
    return torch.from_numpy(np.array(crf.inference(CRF_STEPS))).reshape(1, classes, height, width)
