"""A teacher trained on few labels, frozen; its labels of other images corrected in many ways, against the truth.

The teacher is the warm-up of the reference trainer. What it says of an image (probabilities, embedding, keys) is
computed once. Held-out images are training frames that neither teacher nor anchors have seen, and are where settings
were chosen; the unlabeled images and the test images are what is reported.
"""

from __future__ import annotations

import argparse
import copy
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from _outcomes import Outcomes
from _records import save_record
from segmentation import engine
from segmentation.datasets import IGNORE_INDEX, Sample, read_labels, with_masks
from segmentation.extras import paper
from segmentation.keys import KeyEncoder
from segmentation.layouts import open_data
from segmentation.networks import SegmentationNetwork, upsample
from segmentation.recipe import Recipe, as_dict, load
from segmentation.state import new_refiner
from torch import Tensor
from tqdm import tqdm

from graphcorrect import AnchorBank, DualGraphRefiner, KNNAffinity, guided_upsample, metrics
from graphcorrect.files.images import read_image

LEVELS, MAGNIFICATIONS = (3, 4), (1.0, 2.0, 3.0)  # of the anchors' keys: thin things are found in a larger image
CAPACITY = 10_000  # anchors of a class
BINS = (0.0, 0.5, 0.7, 0.9, 0.99, 1.01)  # of the teacher's confidence


class Answer(NamedTuple):
    """What a frozen teacher says of one image, and the truth; h and w are a quarter of H and W."""

    image: Tensor  # (1, 3, H, W) in [0, 1]
    labels: Tensor  # (1, H, W) int64, 255 void
    probabilities: Tensor  # (1, C, h, w)
    embedding: Tensor  # (1, D, h, w)
    keys: Tensor  # (1, M, h, w), of the encoder before training, a block of M / len(MAGNIFICATIONS) each
    trained_keys: Tensor  # (1, M', h, w), of the teacher's encoder, of the image and of one twice its size


def main(args: argparse.Namespace) -> None:
    results = []
    for seed in args.seeds:
        recipe, data, network, encoder = frozen_teacher(args, seed)
        judged = with_masks(data.unlabeled)[:: 1 if args.smoke else 8]
        splits = {"unlabeled": judged, "held_out": with_masks(data.held_out), "test": data.test}
        if args.smoke:
            splits = {name: samples[:4] for name, samples in splits.items()}
        labeled = [answer(network, encoder, sample) for sample in tqdm(data.labeled, f"seed {seed}, labeled")]
        classes = len(data.class_names)
        unlabeled = (answer(network, encoder, sample) for sample in with_masks(data.unlabeled))
        sides = corrections(labeled, unlabeled, classes, recipe)
        for split, samples in splits.items():
            if split == "unlabeled":  # whose own labels are among the anchors
                names = [name for name in sides if name != ALL_TRUE]
            else:
                names = [name for name in sides if name in HEADLINE]
            scores, outcomes = {name: Score(classes) for name in names}, Outcomes()
            for sample in tqdm(samples, f"seed {seed}, {split}"):
                said = answer(network, encoder, sample)
                before = pixels(said.probabilities, said)
                for name in names:
                    after = sides[name](said).argmax(1)
                    scores[name].add(before, after, said.labels)
                    if name == "whole":
                        outcomes.add(before.argmax(1)[0], after[0], said.labels[0])
            outcomes.draw(args.runs / f"seed{seed}" / f"outcomes_{split}.png")
            for name, score in scores.items():
                result = {"seed": seed, "split": split, "side": name, "images": len(samples)} | score.result()
                results.append(result | ({"by_image": outcomes.counts()} if name == "whole" else {}))
                print(f"seed {seed}, {split}, {name}: {score}", flush=True)
        # After each seed: a study that is stopped keeps what it has
        looks = {"levels": LEVELS, "magnifications": MAGNIFICATIONS, "capacity": CAPACITY}
        settings = looks | {"warmup": recipe.schedule.warmup, "recipe": as_dict(recipe)}
        content = {"classes": list(data.class_names), "bins": BINS, "results": results}
        save_record("label_correction_frozen", content, device=torch.device("cpu"), folder=args.out, **settings)


def study_recipe(args: argparse.Namespace, seed: int) -> Recipe:
    """The trainer's recipe of a study, with what the command line lays over it."""
    import yaml

    given = {"running.seed": seed}
    if args.data is not None:
        given |= {"data.folder": args.data} | ({} if args.recipe else {"data.labeled": 46})
    if args.labeled is not None:
        given["data.labeled"] = args.labeled
    if args.smoke:
        given |= {"schedule.warmup": 2, "schedule.steps": 2, "evaluation.judged": 4, "evaluation.times": 1}
        given |= {"schedule.labeled_batch": 2, "schedule.unlabeled_batch": 2}
        given |= {} if args.data else {"data.scenes": [30, 8], "data.labeled": 8, "data.held_out": 4}
    given |= {key: yaml.safe_load(value) for key, _, value in (item.partition("=") for item in args.set)}
    return load(args.recipe or ("camvid_small" if args.data else "digits"), given)


def warm_up(recipe: Recipe, folder: Path) -> Path:
    """The warm-up of a seed, of whichever study came first; trained here unless the folder has it."""
    if not (folder / "warmup.pt").is_file():
        engine.run(recipe, folder, methods=())
    return folder / "warmup.pt"


def frozen_teacher(args: argparse.Namespace, seed: int) -> tuple[Recipe, Any, SegmentationNetwork, KeyEncoder]:
    """The teacher after the warm-up; trained here unless `args.runs` has it. And the encoder it began with."""
    recipe, folder = study_recipe(args, seed), args.runs / f"seed{seed}"
    recipe.methods = ()
    warm = warm_up(recipe, folder)
    data = open_data(recipe.data, seed, folder)
    saved = torch.load(warm, map_location="cpu", weights_only=True)["teacher"]
    torch.manual_seed(seed)  # as the run did, should its weights have been random
    network, prefix = SegmentationNetwork(len(data.class_names), recipe.network).eval(), "module.network."
    encoder = KeyEncoder(network, LEVELS, MAGNIFICATIONS)
    network.load_state_dict({key[len(prefix) :]: value for key, value in saved.items() if key.startswith(prefix)})
    return recipe, data, network.to(memory_format=torch.channels_last), encoder


@torch.no_grad()
def answer(network: SegmentationNetwork, encoder: KeyEncoder, sample: Sample) -> Answer:
    """Everything the corrections need to know of one image."""
    image = read_image(sample.image)[None].float() / 255
    output = network(image)
    larger = network(F.interpolate(image, scale_factor=2.0, mode="bicubic").clamp(0, 1)).middle
    larger = F.interpolate(larger, size=output.middle.shape[-2:], mode="bilinear", antialias=True)
    trained = torch.cat([F.normalize(block, dim=1) for block in (output.middle, larger)], dim=1)
    labels = read_labels(sample)[None].long()
    return Answer(image, labels, output.logits.softmax(1), output.embedding, encoder(image), trained)


def pixels(probabilities: Tensor, said: Answer) -> Tensor:
    """Probabilities (1, C, H, W), interpolated."""
    return upsample(probabilities, said.image.shape[-2:])


def guided(probabilities: Tensor, said: Answer) -> Tensor:
    """Probabilities (1, C, H, W), along the edges of the image."""
    return guided_upsample(pixels(probabilities, said), said.image)


class RememberingBank(AnchorBank):
    """A bank that does not search twice for the keys of one image, which several corrections ask for."""

    last: tuple[Tensor, Tensor] | None = None

    def forward(self, features: Tensor) -> Tensor:
        if self.last is None or self.last[0] is not features:
            self.last = features, super().forward(features)
        return self.last[1]


def filled_bank(
    labeled: Iterable[Answer], num_classes: int, keys: Callable[[Answer], Tensor], **settings
) -> AnchorBank:
    """A bank that has seen all labeled images once."""
    settings = {"capacity_per_class": CAPACITY} | settings
    bank = None
    for said in labeled:
        found = keys(said)
        bank = bank or RememberingBank(num_classes, found.shape[1], **settings)
        bank.update(found, said.labels)
    return bank


ALL_TRUE = "whole, anchors of all frames"  # the unlabeled ones with their true labels: a bound
HEADLINE = ("whole", "anchors", "graphs of the paper", "edges alone", ALL_TRUE)


def corrections(
    labeled: list[Answer], unlabeled: Iterable[Answer], num_classes: int, recipe: Recipe
) -> dict[str, Callable[[Answer], Tensor]]:
    """By name, what turns an answer into probabilities of every pixel (1, C, H, W).

    The true labels of `unlabeled` serve a bound alone; its answers, too many to keep, are read once.
    """
    feature_dim = recipe.network.feature_dim

    def every(said: Answer) -> Tensor:
        return said.keys

    def trained(said: Answer) -> Tensor:
        return said.trained_keys

    def one(said: Answer) -> Tensor:
        return said.keys[:, : said.keys.shape[1] // len(MAGNIFICATIONS)]

    def coarse(said: Answer) -> Tensor:
        half = [-(-side // 2) for side in said.keys.shape[-2:]]
        return F.adaptive_avg_pool2d(one(said), half)

    def refiner(preset: str) -> DualGraphRefiner:
        return DualGraphRefiner.from_preset(preset, num_classes, feature_dim).eval()

    bank = filled_bank(labeled, num_classes, every)
    small = filled_bank(labeled, num_classes, every, capacity_per_class=1000)
    single = filled_bank(labeled, num_classes, one)
    eighth = filled_bank(labeled, num_classes, coarse)
    learned = filled_bank(labeled, num_classes, trained)
    all_true = filled_bank(itertools.chain(labeled, unlabeled), num_classes, every)
    mild = copy.copy(bank)
    mild.strength, mild.eps = 0.5, 0.02
    paper, cautious = refiner("paper"), refiner("cautious")

    def graphs(module: DualGraphRefiner, said: Answer, anchors: AnchorBank | None, keys=every) -> Tensor:
        extra = {} if anchors is None else {"anchors": anchors, "anchor_features": keys(said)}
        return module(said.embedding, said.probabilities.clamp_min(1e-8).log(), **extra).soft_labels

    def on_edges_of_the_image_graph(run: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Answer], Tensor]:
        """A peer of torch-geometric, on the neighbors that the refiner uses."""

        def corrected(said: Answer) -> Tensor:
            soft = said.probabilities.flatten(2)[0].T
            edge_index, edge_weight = KNNAffinity(20)(said.embedding.flatten(2)[0].T).to_edge_index()
            after = run(soft, edge_index, edge_weight)
            return pixels(after.T.reshape(said.probabilities.shape), said)

        return corrected

    sides: dict[str, Callable[[Answer], Tensor]] = {
        "whole": lambda said: guided(graphs(paper, said, bank), said),
        "whole, cautious": lambda said: guided(graphs(cautious, said, bank), said),
        "whole, 1 magnification": lambda said: guided(graphs(paper, said, single, one), said),
        "anchors": lambda said: pixels(bank.correct(said.probabilities, every(said)), said),
        "anchors, edges": lambda said: guided(bank.correct(said.probabilities, every(said)), said),
        "anchors, graphs": lambda said: pixels(graphs(paper, said, bank), said),
        "whole, 1000 anchors a class": lambda said: guided(graphs(paper, said, small), said),
        "whole, keys of the trained encoder": lambda said: guided(graphs(paper, said, learned, trained), said),
        "whole, keys at 1/8": lambda said: guided(graphs(paper, said, eighth, coarse), said),
        "whole, strength 0.5, eps 0.02": lambda said: guided(graphs(paper, said, mild), said),
        "graphs of the paper": lambda said: pixels(graphs(paper, said, None), said),
        "edges alone": lambda said: guided(said.probabilities, said),
    }
    nodes = labeled[0].embedding.flatten(2).shape[-1]
    for name, module in ablations(recipe, num_classes, nodes).items():
        sides[f"whole, {name}"] = lambda said, module=module: guided(graphs(module, said, bank), said)
        sides[f"graphs of the paper, {name}"] = lambda said, module=module: pixels(graphs(module, said, None), said)
    for name, run in torch_geometric_peers().items():
        sides[name] = on_edges_of_the_image_graph(run)
    sides[ALL_TRUE] = lambda said: guided(graphs(paper, said, all_true), said)
    return {name: torch.no_grad()(side) for name, side in sides.items()}


def ablations(recipe: Recipe, num_classes: int, nodes: int) -> dict[str, DualGraphRefiner]:
    """The rows of the paper's ablations that change the graphs alone, by the name that `reproduce.py` gives them."""
    found = {}
    for name, row in paper.rows().items():
        if row.settings.get("methods") == ["mllc"] and any(key.startswith("refiner.") for key in row.settings):
            varied = copy.deepcopy(recipe)
            for key, value in row.settings.items():
                varied.set(key, value, name)
            if name == "neighbors_all" or varied.refiner.neighbors >= nodes:  # as many as there are here
                varied.refiner.neighbors = nodes - 1
            found[name] = new_refiner(varied, num_classes).eval()
    return found


def torch_geometric_peers() -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Peers as functions of soft labels (N, C) and weighted edges."""
    from torch_geometric.nn.models import CorrectAndSmooth, LabelPropagation

    nobody = torch.zeros(0, dtype=torch.int64)

    def propagated(soft: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
        return LabelPropagation(20, 0.8)(soft, edge_index, edge_weight=edge_weight)

    def smoothed(soft: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
        peer = CorrectAndSmooth(20, 0.8, 20, 0.8, autoscale=False)
        return peer.smooth(soft, nobody, nobody, edge_index, edge_weight)

    return {"LabelPropagation": propagated, "CorrectAndSmooth": smoothed}


class Score:
    """Counts over images: confusion before and after, labels fixed and broken, by confidence too."""

    def __init__(self, num_classes: int):
        self.confusion = torch.zeros(2, num_classes, num_classes, dtype=torch.int64)
        self.counts = torch.zeros(len(BINS) - 1, 3, dtype=torch.int64)  # of each bin: fixed, broken, pixels

    def add(self, before: Tensor, after: Tensor, labels: Tensor) -> None:
        """Counts one image: probabilities before (1, C, H, W), labels after and true ones (1, H, W)."""
        confidence, first = before.max(1)
        for place, predicted in enumerate((first, after)):
            self.confusion[place] += metrics.confusion_matrix(predicted, labels, len(self.confusion[0]))
        for number, (low, high) in enumerate(zip(BINS, BINS[1:], strict=False)):
            here = labels.masked_fill((confidence < low) | (confidence >= high), IGNORE_INDEX)
            found = metrics.correction_counts(first, after, here)
            self.counts[number] += torch.tensor(
                [int(found.fixed), int(found.broken), int((here != IGNORE_INDEX).sum())]
            )

    def result(self) -> dict[str, Any]:
        before, after = (metrics.per_class_iou(confusion) for confusion in self.confusion)
        fixed, broken, _ = self.counts.sum(0).tolist()
        return {
            "before": float(before.nanmean()),
            "after": float(after.nanmean()),
            "iou_before": [round(value, 5) for value in before.tolist()],
            "iou_after": [round(value, 5) for value in after.tolist()],
            "fixed": fixed,
            "broken": broken,
            "by_confidence": self.counts.tolist(),
        }

    def __str__(self) -> str:
        found = self.result()
        gains = torch.tensor(found["iou_after"]) - torch.tensor(found["iou_before"])
        worst = 100 * float(gains[~gains.isnan()].min())
        return (
            f"{100 * found['before']:.2f} -> {100 * found['after']:.2f}, fixed / broken "
            f"{found['fixed'] / max(1, found['broken']):.2f}, worst class {worst:+.2f}"
        )
