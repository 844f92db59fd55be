"""One whole refiner step, forward and backward, against dense matrices, and as a share of a training step.

    python benchmarks/refiner_step.py                # the committed run, some minutes on a CPU
    python benchmarks/refiner_step.py --smoke        # seconds

The dense side is a fair one: the paper's N x N matrices, but no cubic product (diagonal matrices are scalings), one
topk a row instead of a full sort, and the same learned maps. Both are also measured as torch.compile makes them, which
needs a C++ compiler, and ours without numba, where that is installed. The training step is that of DeepLabV3+ with a
ResNet-101 on as many 512 x 512 images.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _harness import (
    ALONE,
    COMPILED,
    Case,
    alone,
    has_loops,
    human_bytes,
    peak_memory,
    reference_of,
    relative_error,
    save,
    time_in_turn,
    with_captured,
)
from _records import Smoke
from torch import Tensor, nn

from graphcorrect import DualGraphRefiner

NUM_CLASSES, FEATURE_DIM = 21, 256


class DenseRefiner(nn.Module):
    """The default refiner with dense matrices: the same parameters, the same result."""

    def __init__(self, refiner: DualGraphRefiner):
        super().__init__()
        self.refiner = refiner

    def forward(self, features: Tensor, logits: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        probabilities = logits.softmax(-1)
        flat = probabilities.detach().reshape(-1, NUM_CLASSES)
        is_confident = self.refiner.threshold.is_confident(flat).reshape(probabilities.shape[:-1])[..., None]
        alpha = logits.new_full((), self.refiner.alpha)
        share = torch.where(is_confident, alpha, 1 - alpha)
        rounds, feature_rounds = [probabilities], [features]
        for label_map, feature_map in zip(self.refiner.label_maps, self.refiner.feature_maps, strict=True):
            propagated = self.affinity(features.detach()) @ probabilities
            propagated = propagated / propagated.sum(-1, keepdim=True)
            residual = 10 * torch.tanh(label_map.residual(probabilities, propagated) / 10)
            probabilities = share * F.softmax(propagated.log() + residual, dim=-1) + (1 - share) * probabilities
            own = F.normalize(features, dim=-1)
            moved = F.normalize(self.class_graph(probabilities.detach()) @ own, dim=-1)
            features = F.normalize(own + moved, dim=-1) + feature_map.residual(own, moved)
            rounds.append(probabilities)
            feature_rounds.append(features)
        return rounds, feature_rounds

    def affinity(self, features: Tensor) -> Tensor:
        rows = F.normalize(features, dim=-1)
        scores = rows @ rows.mT
        scores.diagonal(dim1=-2, dim2=-1).fill_(-torch.inf)
        values, index = scores.topk(self.refiner.affinity.num_neighbors)
        weight = torch.zeros_like(scores).scatter_(-1, index, values.clamp_min(0))
        return normalized(weight + weight.mT)

    @staticmethod
    def class_graph(probabilities: Tensor) -> Tensor:
        labels = probabilities.argmax(-1)
        weight = probabilities @ probabilities.mT
        weight.masked_fill_(labels[..., None] != labels[..., None, :], 0.0)
        weight.diagonal(dim1=-2, dim2=-1).fill_(1.0)
        return normalized(weight)


def normalized(weight: Tensor) -> Tensor:
    scale = weight.sum(-1).rsqrt()
    return weight * scale[..., None] * scale[..., None, :]


def build(
    name: str, batch: int, num_nodes: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> Callable[[], Any]:
    """A call that computes the refined values of one side and the gradients of its inputs."""
    if name == "training step":
        return build_training_step(batch, device)
    torch.manual_seed(0)
    side = int(num_nodes**0.5)
    coarse = torch.randn(batch, FEATURE_DIM, side // 4 + 2, side // 4 + 2)
    features = F.interpolate(coarse, size=(side, side), mode="bilinear").flatten(2).mT.to(device)
    features = features + 0.1 * torch.randn_like(features)  # pixels halfway between two others would tie exactly
    logits = (3 * features[..., :NUM_CLASSES] + torch.randn(batch, side**2, NUM_CLASSES, device=device)).contiguous()
    features, logits = features.to(dtype).contiguous(), logits.to(dtype)
    refiner = DualGraphRefiner(NUM_CLASSES, FEATURE_DIM).to(device, dtype)
    step = refiner if name.startswith("graphcorrect") else DenseRefiner(refiner)
    step = torch.compile(step) if name.endswith(COMPILED) else step
    probes = torch.randn_like(logits), torch.randn_like(features)

    def run() -> tuple[Tensor, ...]:
        leaves = features.detach().requires_grad_(), logits.detach().requires_grad_()
        rounds, feature_rounds = step(*leaves)[:2]
        slopes = [probes[0]] * len(rounds) + [probes[1]] * len(feature_rounds)
        return torch.autograd.grad([*rounds, *feature_rounds], [*leaves, *refiner.parameters()], slopes)[:2]

    return alone(run) if name.endswith(ALONE) else run


def build_training_step(batch: int, device: torch.device) -> Callable[[], Any]:
    """Forward and backward of the network that a refiner of this size sits on."""
    import segmentation_models_pytorch as smp

    network = smp.DeepLabV3Plus("resnet101", encoder_weights=None, classes=NUM_CLASSES).to(device).train()
    images = torch.randn(batch, 3, 512, 512, device=device)
    labels = torch.randint(NUM_CLASSES, (batch, 512, 512), device=device)

    def run() -> None:
        network.zero_grad()
        F.cross_entropy(network(images), labels).backward()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1024, 4096], help="N, a square number")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--training-rounds", type=int, default=3, help="rounds beside a training step; 0: leave it out")
    parser.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=True, help="compiled sides too")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, help="folder of the JSON; default: that of the device")
    parser.add_argument("--smoke", action=Smoke)
    args = parser.parse_args()
    if args.smoke:
        args.batch, args.nodes, args.rounds, args.training_rounds, args.compiled = 2, [256], 3, 0, False
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)

    print(f"refiner forward + backward; C={NUM_CLASSES}, D={FEATURE_DIM}, K=2, k=20, float32, {device}")
    print(f"{'B x N':>9}  {'side':<24}{'median ms':>11}{'peak memory':>16}{'time / ours (95 %)':>26}{'rel. error':>12}")
    cases = []
    for num_nodes in args.nodes:
        case = Case(
            {"batch": args.batch, "num_nodes": num_nodes, "num_classes": NUM_CLASSES, "feature_dim": FEATURE_DIM}
        )
        sizes = (args.batch, num_nodes, device)
        plain = ["graphcorrect", "dense"]
        other = ["graphcorrect" + ALONE] if has_loops(device) else []
        other += [name + COMPILED for name in plain] if args.compiled else []
        names = [*plain, *other]
        runs, others = ({name: build(name, *sizes) for name in some} for some in (plain, other))
        # In float64: after a round the features of a class are close, and float32 breaks their ties at random.
        exact = {name: build(name, *sizes, torch.float64)() for name in names}
        for name in names[1:]:
            case.agreement[name] = max(map(relative_error, exact["graphcorrect"], exact[name]))
        del exact
        if max(case.agreement.values()) > 1e-9:
            raise SystemExit(f"the sides disagree at N={num_nodes}: {case.agreement}")
        case.seconds = time_in_turn(with_captured(runs, device) | others, rounds=args.rounds, device=device)
        case.peak_bytes = {name: peak_memory(build, name, *sizes, device=device) for name in names}
        cases.append(case)
        show(case)
    if args.training_rounds:
        case = Case(
            {"batch": args.batch, "num_nodes": args.nodes[-1], "image": 512, "network": "DeepLabV3+ ResNet-101"}
        )
        runs = {name: build(name, args.batch, args.nodes[-1], device) for name in ("graphcorrect", "training step")}
        case.seconds = time_in_turn(with_captured(runs, device), rounds=args.training_rounds, device=device)
        cases.append(case)
        show(case)
    path = save("refiner_step", cases, device=device, folder=args.out, dtype="float32", seed=0, rounds=args.rounds)
    print(f"wrote {path}")


def show(case: Case) -> None:
    for name in case.seconds:
        ours = reference_of(name, "graphcorrect")
        ratio = "" if name == ours else "{:.1f} ({:.1f}..{:.1f})".format(*case.ratio(name, ours))
        memory = human_bytes(case.peak_bytes[name]) if name in case.peak_bytes else ""
        error = f"{case.agreement[name]:.1e}" if name in case.agreement else ""
        print(
            f"{case.sizes['batch']:>2} x{case.sizes['num_nodes']:>6}  {name:<24}"
            f"{1e3 * case.median_seconds(name):>11.1f}{memory:>16}{ratio:>26}{error:>12}",
            flush=True,
        )


if __name__ == "__main__":
    main()
