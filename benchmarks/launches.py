"""Operations that a GPU would launch: of each layer and loss, and of what they add to a training step, beside dense.

    python benchmarks/launches.py                    # the committed run, a minute or two, on any machine
    python benchmarks/launches.py --device cuda      # what a GPU launches, by its own profiler
    python benchmarks/launches.py --smoke            # seconds
    python benchmarks/launches.py --verbose          # the most frequent operations of each

At some 5 microseconds a launch, a step of small operations takes a GPU's time whatever it computes. On a CPU torch's
operations are counted, views and allocations apart, inside custom operations too, with neither numba nor Triton; and
again with each operation that a Triton kernel serves on CUDA counted as one (the search launches several). Both sides
give the same values before they are counted. Images of 24 x 24 nodes, two of them, 64 entries, labels of 96 x 96.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import _dense as dense
import torch
from _harness import relative_error
from _launches import launches, operations
from _records import RESULTS, Smoke, save_record
from torch import Tensor

from graphcorrect import (
    AnchorBank,
    ClassConsistencyGraph,
    CLGLoss,
    DualGraphRefiner,
    KNNAffinity,
    LabelCorrectionLoss,
    PrototypeBank,
    RefinedLabels,
    SLGLoss,
)
from graphcorrect.labels import pool_labels
from graphcorrect.ops._dispatch import OPERATIONS, without
from graphcorrect.refined_labels import LabelRounds

BATCH, DIM, SIDE, ROUNDS, CAPACITY = 2, 64, 24, 2, 200
Run = Callable[[], Any]


class Data(NamedTuple):
    """Images and nodes of the same pixels; leaves for gradients are made by each call."""

    features: Tensor  # (B, D, h, w)
    logits: Tensor  # (B, C, h, w)
    labels: Tensor  # (B, 4 h, 4 w), equal in each cell of 4 x 4
    prototypes: Tensor  # (C, D)

    @property
    def num_classes(self) -> int:
        return self.logits.shape[1]


def data(num_classes: int, device: torch.device, side: int = SIDE, dtype: torch.dtype = torch.float32) -> Data:
    torch.manual_seed(0)
    coarse = torch.randint(num_classes, (BATCH, side, side))
    labels = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2)
    features, logits = torch.randn(BATCH, DIM, side, side), 4 * torch.randn(BATCH, num_classes, side, side)
    prototypes = torch.randn(num_classes, DIM)
    return Data(
        *(each.to(device, dtype) for each in (features, logits)), labels.to(device), prototypes.to(device, dtype)
    )


def nodes(maps: Tensor) -> Tensor:
    return maps.flatten(2).mT


def gradients(function: Callable[..., Any], *inputs: Tensor) -> Run:
    """A call of a function and of the gradient of its results, each times fixed random numbers."""
    leaves = [each.detach().requires_grad_() for each in inputs]
    probes: list[Tensor] = []  # drawn by the first call

    def run() -> list[Tensor]:
        found = function(*leaves)
        found = [found] if isinstance(found, Tensor) else list(found)
        if not probes:
            torch.manual_seed(1)
            probes.extend(torch.randn(each.shape).to(each) for each in found)  # the same, however these lie in memory
        torch.autograd.backward(found, probes)  # that of parameters too
        return [*found, *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    return run


def layers(given: Data, *, label_rounds: LabelRounds = "all") -> dict[str, tuple[Run, Run]]:
    """Name -> the same work by a layer and by dense matrices.

    The dense refiner's labels are those of the last round; ours averages the rounds, which is counted.
    """
    features, logits, labels, prototypes = given
    num_classes, size = given.num_classes, (features.shape[2], features.shape[3])
    x, p = nodes(features).contiguous(), nodes(logits).softmax(-1)
    y = pool_labels(labels, size, num_classes).flatten(1)
    refiner = DualGraphRefiner(num_classes, DIM, num_rounds=ROUNDS, label_rounds=label_rounds).to(features)
    plain_refiner = dense.Refiner(num_classes, DIM, ROUNDS).to(features)
    slg, clg, criterion = SLGLoss(), CLGLoss(), LabelCorrectionLoss()
    rounds, feature_rounds = [p] * (ROUNDS + 1), [x] * (ROUNDS + 1)
    sets = torch.stack([prototypes] * ROUNDS)
    bank, plain_bank = PrototypeBank(num_classes, DIM).to(features), dense.Prototypes(num_classes, DIM, 2, features)
    anchors = AnchorBank(num_classes, DIM, capacity_per_class=CAPACITY).to(features)
    plain_anchors = dense.Anchors(num_classes, DIM, CAPACITY, features)

    def refined(images: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        out = refiner(images, scores)
        return nodes(out.soft_labels), nodes(out.features[-1])

    def refined_densely(images: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        probabilities, maps = plain_refiner(nodes(images), nodes(scores))
        return probabilities[-1], maps[-1]

    def corrected(own: Tensor, belief: Tensor) -> Tensor:
        out = RefinedLabels((belief,) * (ROUNDS + 1), (own,) * (ROUNDS + 1))
        return criterion(out, y, prototypes=sets).total

    def corrected_densely(own: Tensor, belief: Tensor) -> Tensor:
        return dense.correction_loss((belief,) * len(rounds), (own,) * len(feature_rounds), y, sets)

    def plain_slg(images: Tensor) -> Tensor:
        own = dense.pool_labels(labels, size, num_classes).flatten(1)
        return dense.slg_loss(nodes(images), own, prototypes)

    def update_prototypes() -> Tensor:
        bank.update(x, y)
        return bank.prototypes[0]

    def update_plain_prototypes() -> Tensor:
        plain_bank.update(x, y, 0)
        return plain_bank.prototypes[0]

    # Capacity for all: both keep every node of the first update, so that both look up the same
    anchors.update(x[:, :200], y[:, :200])
    plain_anchors.update(x[:, :200], y[:, :200])
    return {
        "KNNAffinity": (
            gradients(lambda belief: KNNAffinity()(x) @ belief, p),
            gradients(lambda belief: dense.affinity(x) @ belief, p),
        ),
        "ClassConsistencyGraph": (
            gradients(lambda own: ClassConsistencyGraph()(p) @ own, x),
            gradients(lambda own: dense.class_graph(p) @ own, x),
        ),
        "DualGraphRefiner": (gradients(refined, features, logits), gradients(refined_densely, features, logits)),
        "SLGLoss": (
            gradients(lambda images: slg(images, labels, prototypes), features),
            gradients(plain_slg, features),
        ),
        "CLGLoss": (
            gradients(lambda belief: clg(belief, y), p),
            gradients(lambda belief: dense.clg_loss(belief, y), p),
        ),
        "LabelCorrectionLoss": (gradients(corrected, x, p), gradients(corrected_densely, x, p)),
        "PrototypeBank.update": (update_prototypes, update_plain_prototypes),
        "AnchorBank": (lambda: anchors(x).flatten(0, -2), lambda: plain_anchors(x)),
        "pool_labels": (
            lambda: pool_labels(labels, size, num_classes).float(),
            lambda: dense.pool_labels(labels, size, num_classes).float(),
        ),
    }


def updates(given: Data) -> tuple[Run, Run]:
    """AnchorBank.update by either side; which nodes stay is drawn at random, so that values are not compared."""
    features = given.features
    x = nodes(features).contiguous()
    y = pool_labels(given.labels, (features.shape[2], features.shape[3]), given.num_classes).flatten(1)
    anchors = AnchorBank(given.num_classes, DIM, capacity_per_class=CAPACITY).to(features)
    plain_anchors = dense.Anchors(given.num_classes, DIM, CAPACITY, features)
    return lambda: anchors.update(x, y), lambda: plain_anchors.update(x, y)


def training(given: Data) -> tuple[Run, Run]:
    """What a user adds to a step: refiner, prototypes, Eq. (17) and anchors, forward and backward, by either side."""
    features, logits, labels, _ = given
    num_classes, size = given.num_classes, (features.shape[2], features.shape[3])
    refiner = DualGraphRefiner(num_classes, DIM, num_rounds=ROUNDS).to(features)
    bank = PrototypeBank(num_classes, DIM, num_rounds=ROUNDS).to(features)
    anchors = AnchorBank(num_classes, DIM, capacity_per_class=CAPACITY).to(features)
    criterion = LabelCorrectionLoss()
    leaves = features.detach().requires_grad_(), logits.detach().requires_grad_()

    def step() -> None:
        out = refiner(*leaves)
        anchors.update(leaves[0].detach(), labels)
        for number, values in enumerate(out.features[1:]):
            bank.update(values.detach(), labels, round=number)
        criterion(out, labels, prototypes=bank.prototypes, prototype_mask=bank.is_initialized).total.backward()

    plain_refiner = dense.Refiner(num_classes, DIM, ROUNDS).to(features)
    plain_bank = dense.Prototypes(num_classes, DIM, ROUNDS, features)
    plain_anchors = dense.Anchors(num_classes, DIM, CAPACITY, features)

    def plain_step() -> None:
        x, z = (nodes(each) for each in leaves)
        rounds, feature_rounds = plain_refiner(x, z)
        y = dense.pool_labels(labels, size, num_classes).flatten(1)
        plain_anchors.update(x, y)
        for number, values in enumerate(feature_rounds[1:]):
            plain_bank.update(values, y, number)
        dense.correction_loss(rounds, feature_rounds, y, plain_bank.prototypes).backward()

    return step, plain_step


def agreement(ours: Run, theirs: Run) -> float:
    """The largest relative error between what both return."""
    found, wanted = ([each] if isinstance(each, Tensor) else each for each in (ours(), theirs()))
    pairs = zip(found, wanted, strict=True)
    return max(relative_error(mine.detach(), other.detach().reshape(mine.shape)) for mine, other in pairs)


def count(run: Run, device: torch.device, verbose: str = "") -> dict[str, int]:
    """Operations of a call: of torch alone, and with Triton's kernels; on a GPU what it launches with and without."""
    found: dict[str, Counter[str]] = {}
    if device.type == "cuda":
        found["triton"] = launches(run)
        with without("triton"):
            found["torch"] = launches(run)
    else:
        kernels = {kernel.name for each in OPERATIONS.values() for kernel in each.kernels}
        with without(*kernels):
            found["triton"] = operations(run, with_triton())
            found["torch"] = operations(run)
    if verbose:
        for kind, names in found.items():
            print(f"    {verbose}, {kind}: {', '.join(f'{name} {times}' for name, times in names.most_common(12))}")
    return {kind: names.total() for kind, names in found.items()}


def with_triton() -> list[str]:
    """The operations that a Triton kernel serves on CUDA."""
    return [name for name, each in OPERATIONS.items() if any(kernel.name == "triton" for kernel in each.kernels)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[21, 150])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--verbose", action="store_true", help="the most frequent operations too")
    parser.add_argument(
        "--out", type=Path, help="folder of the JSON; default: that of the GPU; the same for all processors"
    )
    parser.add_argument("--smoke", action=Smoke)
    args = parser.parse_args()
    classes, side = ([3], 8) if args.smoke else (args.classes, SIDE)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("launches: --device cuda needs a CUDA device; without it counts torch's operations on the CPU")

    print(f"{'C':>4}  {'':<24}{'torch':>8}{'Triton':>8}{'dense':>8}")
    counted = []
    for num_classes in classes:
        given = data(num_classes, device, side)
        # In float64: after a round the features of a class are close, and float32 breaks their ties at random
        wide = data(num_classes, device, side, torch.float64)
        for name, (ours, theirs) in layers(wide, label_rounds="last").items():
            if (error := agreement(ours, theirs)) > 1e-5:
                raise SystemExit(f"{name} and its dense twin disagree at C={num_classes}: {error:.1e}")
        cases = layers(given)
        cases |= {"AnchorBank.update": updates(given), "training step": training(given)}
        for name, (ours, theirs) in cases.items():
            found = {"graphcorrect": count(ours, device, name if args.verbose else "")}
            found["dense"] = count(theirs, device, f"{name}, dense" if args.verbose else "")
            counted.append({"name": name, "num_classes": num_classes, "operations": found})
            numbers = (found["graphcorrect"]["torch"], found["graphcorrect"]["triton"], found["dense"]["torch"])
            print(f"{num_classes:>4}  {name:<24}" + "".join(f"{number:>8}" for number in numbers), flush=True)
    sizes = {"batch": BATCH, "num_nodes": side**2, "feature_dim": DIM, "labels": 4 * side, "num_rounds": ROUNDS}
    settings = {"dtype": "float32", "seed": 0, "sizes": sizes, "triton": with_triton()}
    folder = args.out or (None if device.type == "cuda" else RESULTS)
    path = save_record("launches", {"counts": counted}, device=device, folder=folder, **settings)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
