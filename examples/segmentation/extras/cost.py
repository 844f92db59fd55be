"""What a recipe costs, told before it is paid: parameters, steps, images, floating-point operations."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from segmentation.datasets import Sample, SegmentationData
from segmentation.keys import KeyEncoder
from segmentation.layouts import open_data
from segmentation.method import parse
from segmentation.networks import SegmentationNetwork
from segmentation.recipe import Recipe
from segmentation.running import crop_of, number_of_steps
from segmentation.split import number_labeled
from segmentation.state import new_refiner


def estimate(recipe: Recipe) -> str:
    """A few lines for a person. Operations are those of the network's convolutions and matrix products."""
    data, note = _counts(recipe)
    steps = number_of_steps(recipe, data)
    schedule, methods = recipe.schedule, [parse(name) for name in recipe.methods]
    crop = crop_of(recipe, [] if note else data.labeled)
    settings = copy.copy(recipe.network)
    settings.weights = "none"
    network = SegmentationNetwork(len(data.class_names), settings).eval().to("meta")  # shapes: nothing is computed
    refiner = new_refiner(recipe, len(data.class_names))
    image = torch.zeros(1, 3, *crop, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = network(image)
    forward = counter.get_total_flops() / 1e9
    looks = _cost_of_anchors(recipe, network, image, forward)
    nodes = min(recipe.refiner.max_nodes, output.logits.shape[-2] * output.logits.shape[-1])
    # A backward pass costs two forward ones; the teacher has none, and labels one view of an image.
    labeled, unlabeled = schedule.labeled_batch, schedule.unlabeled_batch
    views = {"supervised": 0, "unimatch": 3}
    per_method = {}
    for method in methods:
        operations = 3 * forward * (labeled + views.get(method.teaching, 1) * unlabeled)
        if method.uses_unlabeled and method.teaching != "rounds":
            operations += forward * unlabeled
            operations += looks[0] * labeled + looks[1] * unlabeled if method.uses_anchors else 0
        per_method[str(method)] = operations
    total = (3 * forward * labeled * schedule.warmup + sum(per_method.values()) * steps) / 1e6
    images = (schedule.warmup + steps * len(methods)) * labeled
    images += steps * sum(method.uses_unlabeled for method in methods) * unlabeled
    parameters = sum(parameter.numel() for parameter in network.parameters())
    lines = [
        f"images: {len(data.labeled)} labeled, {len(data.unlabeled)} unlabeled, {len(data.test)} to test on{note}",
        f"network: {parameters / 1e6:.2f} M parameters, refiner "
        f"{sum(parameter.numel() for parameter in refiner.parameters()) / 1e6:.3f} M; "
        f"{forward:.1f} GFLOP forward at {crop[0]} x {crop[1]}; graphs of {nodes} nodes an image",
        f"steps: {schedule.warmup} of warm-up, {steps} of each of {len(recipe.methods)} method(s); {images:,} images",
        "a step: " + ", ".join(f"{method} {value:,.0f} GFLOP" for method, value in per_method.items()),
        f"all: {total:,.3f} PFLOP in the network, without graphs and tests",
    ]
    return "\n".join(lines)


def _cost_of_anchors(
    recipe: Recipe, network: SegmentationNetwork, image: torch.Tensor, forward: float
) -> tuple[float, float]:
    """GFLOP of the keys of a labeled image and of an unlabeled one."""
    if not any(parse(name).uses_anchors for name in recipe.methods):
        return 0.0, 0.0
    if recipe.anchors.keys == "trained":  # the teacher's, which has seen the unlabeled images anyway
        return forward, 0.0
    encoder = KeyEncoder(network, recipe.anchors.levels or (3, 4), recipe.anchors.magnifications)
    with FlopCounterMode(display=False) as counter:
        encoder(image)
    return (counter.get_total_flops() / 1e9,) * 2


def _counts(recipe: Recipe) -> tuple[SegmentationData, str]:
    """The data set, or where it is not at hand one of its published size, and a note that says so."""
    if recipe.data.layout == "digits" or recipe.data.folder is not None:
        with tempfile.TemporaryDirectory() as scratch:  # a dry run leaves nothing behind
            return open_data(recipe.data, recipe.running.seed, Path(scratch)), ""
    count = recipe.data.expected_images
    if count is None:
        raise ValueError("expected `data.folder` (--data) or `data.expected_images`, to count the steps")
    labeled = number_labeled(recipe.data.labeled, count)
    nothing = Sample(Path(), None)
    classes = 19 if recipe.data.layout == "cityscapes" else 21
    names = [str(number) for number in range(classes)]
    note = " (as published: no --data is given)"
    parts = [nothing] * labeled, [nothing] * (count - labeled), [], []
    return SegmentationData(*parts, names, recipe.data.layout), note
