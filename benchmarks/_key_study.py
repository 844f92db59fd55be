"""What pixels are best looked up by: one frozen teacher, the keys that the trainer has, with and without places."""

from __future__ import annotations

import argparse
import copy

import torch
from _frozen_study import Score, frozen_teacher
from _records import save_record
from segmentation import evaluation
from segmentation.datasets import with_masks
from segmentation.keys import LabeledPixels
from segmentation.model import corrected_probabilities
from segmentation.networks import SegmentationNetwork, upsample
from segmentation.recipe import Recipe, as_dict
from segmentation.state import new_anchors, new_refiner
from tqdm import tqdm

KEYS = {
    "the teacher's encoder, at 1/4 to 1/16": {"keys": "trained"},
    "the same, at 1/4": {"keys": "trained", "levels": (2,)},
    "the encoder as it began": {"keys": "initial"},
    "EfficientNet-Lite0": {"keys": "pretrained", "magnifications": (1.0,)},
    "the same, image of twice its size": {"keys": "pretrained", "magnifications": (2.0,)},
    "the same, sizes 1, 2, 3": {"keys": "pretrained", "magnifications": (1.0, 2.0, 3.0)},
}
POSITIONS = (0.0, 1.0)
IMAGES = 48  # of a split, evenly spread


def main(args: argparse.Namespace) -> None:
    results = []
    for seed in args.seeds:
        recipe, data, network, _ = frozen_teacher(args, seed)
        classes, count = len(data.class_names), 2 if args.smoke else IMAGES
        banks = filled_banks(recipe, network, data.labeled, classes, seed)
        refiner, guided = new_refiner(recipe, classes).eval(), recipe.refiner.guided
        for split, samples in {"unlabeled": with_masks(data.unlabeled), "held_out": with_masks(data.held_out)}.items():
            if not samples:
                continue
            judged = samples[:: max(1, len(samples) // count)][:count]
            scores = {name: Score(classes) for name in banks}
            for sample in tqdm(judged, f"seed {seed}, {split}"):
                images, labels = evaluation.one_image(sample, recipe, torch.device("cpu"))
                with torch.no_grad():
                    output = network(images)
                    before = upsample(output.logits.softmax(1), images.shape[-2:])
                    for name, bank in banks.items():
                        options = {"anchors": bank, "guided": guided}
                        after = corrected_probabilities(("anchors",), refiner, output, images, **options)
                        scores[name].add(before, after.argmax(1), labels)
            for (keys, position), score in scores.items():
                found = {"seed": seed, "split": split, "keys": keys, "position": position, "images": len(judged)}
                results.append(found | score.result())
                print(f"seed {seed}, {split}, {keys}, position {position:g}: {score}", flush=True)
        name = f"label_correction_keys_{args.recipe or ('camvid' if args.data else 'digits')}"
        content = {"results": results}
        save_record(name, content, device=torch.device("cpu"), folder=args.out, recipe=as_dict(recipe))


@torch.no_grad()
def filled_banks(
    recipe: Recipe, network: SegmentationNetwork, labeled: list, classes: int, seed: int
) -> dict[tuple[str, float], LabeledPixels]:
    """A bank for each kind of keys, with and without places, which has seen every labeled image as it is."""
    torch.manual_seed(seed)
    beginning = SegmentationNetwork(classes, recipe.network).eval()  # as the run began
    banks = {}
    for name, settings in KEYS.items():
        if settings["keys"] == "initial" and recipe.network.architecture == "unet":
            continue  # random weights
        for position in POSITIONS:
            asked = copy.deepcopy(recipe)
            asked.methods, asked.anchors.decay = ("self_training+anchors",), 1.0
            for key, value in {"levels": None, "position": position, **settings}.items():
                setattr(asked.anchors, key, value)
            banks[name, position] = new_anchors(asked, classes, beginning)
    for sample in tqdm(labeled, f"seed {seed}, labeled"):
        images, labels = evaluation.one_image(sample, recipe, torch.device("cpu"))
        output = network(images)
        for bank in banks.values():
            bank.update(bank.keys(images, output), labels)
    return banks
