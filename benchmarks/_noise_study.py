"""Labels corrupted on purpose, where the truth is known: an untrained refiner beside label propagation's best.

Every side sees the same features and the same corrupted labels, searches its own neighbors (scikit-learn) or uses ours
(torch-geometric), and is timed from features to labels. Peers run at several settings; their best at each noise level
is what counts, chosen with the truth at hand, which no user has.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from _records import save_record
from torch import Tensor

from graphcorrect import DualGraphRefiner, KNNAffinity, metrics

NEIGHBORS = 20
RATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
KINDS = ("uniform", "similar", "pair")
OURS = {
    "refiner, paper": {"preset": "paper"},
    "refiner, cautious": {"preset": "cautious"},
}
ALPHAS = (0.2, 0.8, 0.9, 0.95, 0.99)  # share of the neighbors; scikit-learn's default is the first


class Problem(NamedTuple):
    """Nodes (N, D) and their true labels (N,)."""

    name: str
    features: Tensor
    labels: Tensor
    num_classes: int


def main(args: argparse.Namespace) -> None:
    problems = [digits()]
    if args.data is not None:
        problems.append(backbone_pixels(args.data))
    rates, draws = ((0.4,), 1) if args.smoke else (RATES, 3)
    results = []
    for problem in problems:
        for kind in KINDS:
            for rate in rates:
                results.append(case(problem, kind, rate, draws))
                shown = {name: f"{side['right']:.3f}" for name, side in results[-1]["sides"].items()}
                print(f"{problem.name}, {kind}, {rate:.0%} wrong:", shown, flush=True)
    save_record(
        "label_correction_noise",
        {"results": results},
        device=torch.device("cpu"),
        folder=args.out,
        neighbors=NEIGHBORS,
        draws=draws,
    )


def digits() -> Problem:
    """scikit-learn's handwritten digits, the pixels as they are: N = 1797, D = 64."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return Problem("digits", torch.from_numpy(pixels).float(), torch.from_numpy(labels).long(), 10)


def backbone_pixels(folder: str, num_images: int = 40, num_nodes: int = 4000) -> Problem:
    """Pixels of street scenes by an ImageNet network that has seen none of their labels, at 1/8 of the resolution."""
    from segmentation.datasets import read_labels, with_masks
    from segmentation.layouts import open_data
    from segmentation.networks import SegmentationNetwork
    from segmentation.recipe import load

    from graphcorrect.files.images import read_image
    from graphcorrect.labels import pool_labels

    recipe = load("camvid_small", {"data.folder": folder})
    data = open_data(recipe.data, 0, Path("."), write=False)
    network = SegmentationNetwork(len(data.class_names), recipe.network).eval()
    features, labels = [], []
    every = max(1, len(data.unlabeled) // num_images)
    for sample in with_masks(data.unlabeled)[::every][:num_images]:
        with torch.no_grad():
            middle = network(read_image(sample.image)[None].float() / 255).middle
        size = (-(-middle.shape[-2] // 2), -(-middle.shape[-1] // 2))
        features.append(F.adaptive_avg_pool2d(middle, size)[0].flatten(1).T)
        labels.append(pool_labels(read_labels(sample)[None].long(), size, len(data.class_names)).flatten())
    joined, truth = torch.cat(features), torch.cat(labels)
    known = torch.nonzero(truth < len(data.class_names))[:, 0]
    drawn = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(0))[:num_nodes]]
    return Problem("backbone pixels", joined[drawn], truth[drawn], len(data.class_names))


def corrupted(problem: Problem, kind: str, rate: float, seed: int) -> Tensor:
    """Labels of which `rate` name another class.

    uniform: any other. similar: another in proportion to exp(10 cos) of the classes' mean features. pair: always the
    next class, so that from 50 % on most of a class carries one wrong name and no neighbor can know better.
    """
    generator = torch.Generator().manual_seed(seed)
    labels, count = problem.labels, problem.num_classes
    if kind == "uniform":
        other = (labels + torch.randint(1, count, labels.shape, generator=generator)) % count
    elif kind == "pair":
        other = (labels + 1) % count
    else:
        unit = F.normalize(problem.features, dim=1)
        means = F.normalize(F.one_hot(labels, count).float().T @ unit, dim=1)
        likeness = (10 * means @ means.T).fill_diagonal_(-torch.inf)
        other = torch.multinomial(likeness.softmax(1)[labels], 1, generator=generator)[:, 0]
    return torch.where(torch.rand(labels.shape, generator=generator) < rate, other, labels)


def case(problem: Problem, kind: str, rate: float, draws: int) -> dict[str, Any]:
    """Share of right labels, labels fixed and broken, and seconds of each side, means over draws of the noise."""
    sides = sides_of(problem)
    found: dict[str, list[tuple[float, int, int, float]]] = {name: [] for name in sides}
    before = []
    for seed in range(draws):
        noisy = corrupted(problem, kind, rate, seed)
        before.append((noisy == problem.labels).float().mean().item())
        for name in list(sides) if seed % 2 else list(sides)[::-1]:
            start = time.perf_counter()
            after = sides[name](noisy)
            seconds = time.perf_counter() - start
            counts = metrics.correction_counts(noisy, after, problem.labels)
            right = (after == problem.labels).float().mean().item()
            found[name].append((right, int(counts.fixed), int(counts.broken), seconds))
    columns = ("right", "fixed", "broken", "seconds")
    return {
        "problem": problem.name,
        "num_nodes": len(problem.labels),
        "kind": kind,
        "rate": rate,
        "before": sum(before) / draws,
        "sides": {
            name: {column: sum(values) / draws for column, values in zip(columns, zip(*rows, strict=True), strict=True)}
            for name, rows in found.items()
        },
    }


def sides_of(problem: Problem) -> dict[str, Callable[[Tensor], Tensor]]:
    """By name, what turns corrupted labels (N,) into corrected ones."""
    features, count = problem.features, problem.num_classes

    def refiner(preset: str) -> Callable[[Tensor], Tensor]:
        module = DualGraphRefiner.from_preset(preset, count, features.shape[1], num_neighbors=NEIGHBORS).eval()

        @torch.no_grad()
        def run(noisy: Tensor) -> Tensor:
            # Half of the weight on the given label: below the threshold, so that no node counts as sure.
            logits = (0.5 * F.one_hot(noisy, count).float() + 0.5 / count).log()
            return module(features, logits).pseudo_labels

        return run

    def spreading(alpha: float) -> Callable[[Tensor], Tensor]:
        from sklearn.semi_supervised import LabelSpreading

        def run(noisy: Tensor) -> Tensor:
            peer = LabelSpreading(kernel="knn", n_neighbors=NEIGHBORS, alpha=alpha, max_iter=200)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of convergence, at 0.99
                return torch.from_numpy(peer.fit(features.numpy(), noisy.numpy()).transduction_).long()

        return run

    def propagation(alpha: float) -> Callable[[Tensor], Tensor]:
        from torch_geometric.nn.models import LabelPropagation

        def run(noisy: Tensor) -> Tensor:
            edge_index, edge_weight = KNNAffinity(NEIGHBORS)(features).to_edge_index()
            return LabelPropagation(50, alpha)(noisy, edge_index, edge_weight=edge_weight).argmax(1)

        return run

    def smoothing(alpha: float) -> Callable[[Tensor], Tensor]:
        from torch_geometric.nn.models import CorrectAndSmooth

        def run(noisy: Tensor) -> Tensor:
            edge_index, edge_weight = KNNAffinity(NEIGHBORS)(features).to_edge_index()
            peer = CorrectAndSmooth(50, alpha, 50, alpha, autoscale=False, scale=1.0)
            known = torch.zeros(len(noisy), dtype=torch.bool)  # nobody's label is known to be right
            soft = 0.5 * F.one_hot(noisy, count).float() + 0.5 / count
            return peer.smooth(soft, noisy[known], known, edge_index, edge_weight).argmax(1)

        return run

    sides = {name: refiner(**settings) for name, settings in OURS.items()}
    for alpha in ALPHAS:
        sides[f"LabelSpreading {alpha}"] = spreading(alpha)
        sides[f"LabelPropagation {alpha}"] = propagation(alpha)
    return sides | {"CorrectAndSmooth 0.8": smoothing(0.8)}
