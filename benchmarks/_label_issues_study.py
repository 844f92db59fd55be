"""What is found of annotations made wrong on purpose, beside cleanlab on the same predictions."""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import _label_noise
import numpy as np
import torch
import torch.nn.functional as F
from _label_issues_networks import Networks, halves
from _label_noise import VOID
from _records import commit
from sklearn.metrics import average_precision_score
from torch import Tensor

from graphcorrect import label_issues, metrics

MAGNIFICATIONS, LEVELS = (1.0, 2.0), (3, 4)  # of the keys that pixels of different images are compared by


class Scenes(NamedTuple):
    """Images whose true labels are known: (n, 3, H, W) uint8, (n, H, W) uint8 with 255 as void."""

    images: Tensor
    truth: np.ndarray
    class_names: list[str]


class Verdict(NamedTuple):
    """What one side says: (n, H, W) issues, scores (low: wrong) and labels, those of issues corrected."""

    issues: np.ndarray
    scores: np.ndarray
    corrected: np.ndarray


def results(scenes: Scenes, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every side on every kind and share of wrong labels."""
    num_classes = len(scenes.class_names)
    networks = Networks(scenes.images, num_classes, args.runs / "predictions", args.steps)
    keys = _keys(scenes.images, num_classes, args.runs / "keys.pt")
    # neither the network of an image nor its anchors have seen its half of the video
    first, second = halves(len(scenes.truth))
    pairs = list(zip(second, first, strict=False))[:: args.every]
    order = [place for pair in pairs for place in pair]
    tasks = []
    for rate in args.rates:
        for kind in args.kinds:
            given = _label_noise.KINDS[kind](scenes.truth, rate, np.random.default_rng(0), num_classes)
            coarse = networks.predictions(torch.from_numpy(given))
            part = Part(
                scenes.images[order],
                given[order],
                coarse[order],
                keys[order],
                scenes.truth[order],
                args.runs / "results",
            )
            tasks.append((kind, rate, part))
    if args.jobs == 1:
        found = [_measured(task) for task in tasks]
    else:
        _FORKED.extend(tasks)  # which a fork shares: gigabytes need not pass through pipes
        with multiprocessing.get_context("fork").Pool(args.jobs) as pool:
            found = pool.map(_measured_of_fork, range(len(tasks)), chunksize=1)
    return [result for results in found for result in results]


_FORKED: list[tuple[str, float, Part]] = []


def _measured_of_fork(number: int) -> list[dict[str, Any]]:
    return _measured(_FORKED[number])


def _measured(task: tuple[str, float, Part]) -> list[dict[str, Any]]:
    """Every side on one kind and share of wrong labels; a study that is stopped keeps what it has."""
    kind, rate, part = task
    path = part.folder / f"{commit()}-{kind}-{rate}-{len(part.given)}.json"
    if path.is_file():
        return json.loads(path.read_text())
    found = []
    for name, side in SIDES.items():
        if name == "cleanlab" and importlib.util.find_spec(name) is None:
            continue
        found.append({"kind": kind, "rate": rate, "side": name, "images": len(part.given)} | part.measure(side))
        print(_line(found[-1]), flush=True)
    part.folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
    return found


class Part:
    """The images that are judged, in the order in which they are read."""

    def __init__(
        self, images: Tensor, given: np.ndarray, coarse: Tensor, keys: Tensor, truth: np.ndarray, folder: Path
    ):
        self.images, self.given, self.coarse, self.keys, self.truth, self.folder = (
            images,
            given,
            coarse,
            keys,
            truth,
            folder,
        )

    def probabilities(self, place: int) -> Tensor:
        """(C, H, W) float32, interpolated, as both tools get them."""
        return F.interpolate(self.coarse[place : place + 1].float(), self.given.shape[1:], mode="bilinear")[0]

    def measure(self, side: Callable[[Part], Verdict]) -> dict[str, float]:
        """Average precision of the scores, and what issues and corrections are worth, over all labeled pixels."""
        verdict, known = side(self), self.truth != VOID
        wrong = (self.given != self.truth)[known]
        issues, right = verdict.issues[known], (verdict.corrected == self.truth)[known]
        hits = int((issues & wrong).sum())
        return {
            "wrong": float(wrong.mean()),
            "average_precision": float(average_precision_score(wrong, -verdict.scores[known])),
            "precision": hits / max(1, int(issues.sum())),
            "recall": hits / max(1, int(wrong.sum())),
            "fixed": float((right & wrong).sum() / max(1, wrong.sum())),
            "broken": float((~right & ~wrong).sum() / max(1, wrong.sum())),
            "miou_before": self._miou(self.given),
            "miou_after": self._miou(verdict.corrected),
        }

    def _miou(self, labels: np.ndarray) -> float:
        known, count = self.truth != VOID, self.coarse.shape[1]
        predicted, true = (torch.from_numpy(each[known].astype(np.int64)) for each in (labels, self.truth))
        return float(metrics.per_class_iou(metrics.confusion_matrix(predicted, true, count)).nanmean())


def ours(part: Part, **settings: Any) -> Verdict:
    """The library, an image at a time."""
    probabilities = lambda: map(part.probabilities, range(len(part.given)))  # noqa: E731
    found = list(label_issues(part.given, probabilities, part.images, **settings))
    names = ("issues", "pixel_scores", "corrected")
    return Verdict(*(np.stack([getattr(each, name) for each in found]) for name in names))


def cleanlab(part: Part) -> Verdict:
    """cleanlab's mask and scores; it corrects nothing, and its issues are given the model's class here.

    It knows no void: void pixels are given the model's class, which is never an issue.
    """
    from cleanlab.segmentation.filter import find_label_issues
    from cleanlab.segmentation.rank import get_label_quality_scores

    probabilities = np.stack([part.probabilities(place).numpy() for place in range(len(part.given))])
    likeliest = probabilities.argmax(1)
    labels = np.where(part.given == VOID, likeliest, part.given).astype(np.int64)
    issues = find_label_issues(labels, probabilities, n_jobs=1, verbose=False)
    _, scores = get_label_quality_scores(labels, probabilities, verbose=False)
    return Verdict(issues, scores, np.where(issues, likeliest, part.given))


SIDES: dict[str, Callable[[Part], Verdict]] = {
    "cleanlab": cleanlab,
    "label_issues": ours,
    "label_issues, features": lambda part: ours(part, features=part.keys),
}


def _keys(images: Tensor, num_classes: int, path: Path) -> Tensor:
    """Keys (n, D, H / 4, W / 4) float16 of the published encoder, computed once."""
    from segmentation.keys import KeyEncoder
    from segmentation.networks import SegmentationNetwork
    from segmentation.recipe import load

    if not path.is_file():
        torch.manual_seed(0)
        network = SegmentationNetwork(num_classes, load("camvid_small", {}).network).eval()
        encoder = KeyEncoder(network, LEVELS, MAGNIFICATIONS)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(torch.cat([encoder(image[None].float() / 255).half() for image in images]), path)
    return torch.load(path, weights_only=True)


def _line(result: dict[str, Any]) -> str:
    figures = {key: round(value, 4) for key, value in result.items() if isinstance(value, float)}
    return f"{result['kind']} {result['rate']} {result['side']}: {figures}"
