"""How time and memory grow with the number of nodes: the class graph, the pair loss, propagation, neighbor search.

    python benchmarks/scaling.py                     # the committed run, some minutes on a CPU
    python benchmarks/scaling.py --device cuda       # on a GPU
    python benchmarks/scaling.py --smoke             # seconds

Each is run forward and backward (the search forward) at sizes that double. What is reported is the exponent e of
amount = constant * N^e, by least squares over the larger sizes, with its 95 % interval. The search is quadratic; its
memory is measured against `memory_budget`. On a GPU the timed work is a CUDA graph, in which launches take no time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _harness import Case, captured, exponent, human_bytes, peak_memory, save, time_in_turn
from _records import Smoke
from torch import Tensor

from graphcorrect import ClassConsistencyGraph, knn, slg_loss
from graphcorrect.graphs import NeighborOperator

NUM_CLASSES, FEATURE_DIM, NUM_NEIGHBORS = 21, 256, 20
SIZES = [5000, 10000, 20000, 40000, 80000, 160000]
BUDGETS = [4, 16, 64]  # MiB, of the search
LINEAR = ("class graph", "pair loss", "propagation")


def build(name: str, num_nodes: int, device: torch.device, budget: int | None = None) -> Callable[[], Any]:
    """A call that does the work of one of the sides on inputs made here."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(num_nodes, FEATURE_DIM, generator=generator).to(device)
    if name == "search":
        return lambda: knn(features, None, NUM_NEIGHBORS, exclude_self=True, memory_budget=budget)
    probabilities = (3 * torch.randn(num_nodes, NUM_CLASSES, generator=generator)).softmax(-1).to(device)
    if name == "class graph":
        return gradient_of(lambda leaf: ClassConsistencyGraph()(probabilities) @ leaf, features)
    if name == "pair loss":
        labels = probabilities.argmax(-1)
        options = {"balance": 1.0, "num_classes": NUM_CLASSES, "validate_args": False}
        return gradient_of(lambda leaf: slg_loss(leaf, labels, **options), features)
    # Neighbors nearby, as those of pixels are; finding them is not what is measured here
    step = torch.randint(1, 400, (num_nodes, NUM_NEIGHBORS), generator=generator).to(device)
    index = (torch.arange(num_nodes, device=device)[:, None] + step) % num_nodes
    weight = torch.rand(num_nodes, NUM_NEIGHBORS, generator=generator).to(device)
    return gradient_of(lambda leaf: NeighborOperator(index, weight).normalized() @ leaf, probabilities)


def gradient_of(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Callable[[], Tensor]:
    def run() -> Tensor:
        leaf = inputs.detach().requires_grad_()
        value = function(leaf)
        return torch.autograd.grad(value, leaf, torch.ones_like(value))[0]

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, help="folder of the JSON; default: that of the device")
    parser.add_argument("--smoke", action=Smoke)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    sizes, search_size, rounds = ([500, 1000, 2000], 1000, 2) if args.smoke else (SIZES, 10000, args.rounds)

    cases = []
    for num_nodes in sizes:
        case = Case({"num_nodes": num_nodes, "num_classes": NUM_CLASSES, "feature_dim": FEATURE_DIM})
        runs = {name: captured(build(name, num_nodes, device), device) for name in LINEAR}
        case.seconds = time_in_turn(runs, rounds=rounds, device=device)
        case.peak_bytes = {name: peak_memory(build, name, num_nodes, device, device=device) for name in runs}
        cases.append(case)
        shown = (
            f"{name} {1e3 * case.median_seconds(name):.1f} ms {human_bytes(case.peak_bytes[name])}" for name in runs
        )
        print(f"N={num_nodes:>7}  " + "; ".join(shown), flush=True)
    for name in LINEAR:
        for what, fitted in fits(cases, name).items():
            print(f"{name}: {what} grows with N^{fitted[0]:.2f} ({fitted[1]:.2f} to {fitted[2]:.2f})")

    budget_case = Case({"num_nodes": search_size, "feature_dim": FEATURE_DIM, "num_neighbors": NUM_NEIGHBORS})
    for budget in BUDGETS:
        peak = peak_memory(build, "search", search_size, device, budget * 2**20, device=device)
        budget_case.peak_bytes[f"memory_budget of {budget} MiB"] = peak
        print(f"search, N={search_size}, memory_budget of {budget} MiB: peak {human_bytes(peak)}", flush=True)
    path = save(
        "scaling", [*cases, budget_case], device=device, folder=args.out, dtype="float32", seed=0, rounds=rounds
    )
    print(f"wrote {path}")


def fits(cases: list[Case], name: str) -> dict[str, tuple[float, float, float]]:
    """Exponents of time and memory over the sizes; the smallest ones of a long run tell of constant costs."""
    used = [case for case in cases if name in case.seconds and case.sizes["num_nodes"] >= 10000]
    used = used if len(used) > 2 else [case for case in cases if name in case.seconds]
    nodes = [case.sizes["num_nodes"] for case in used]
    return {
        "time": exponent(nodes, [case.median_seconds(name) for case in used]),
        "memory": exponent(nodes, [max(1, case.peak_bytes[name] or 1) for case in used]),
    }


if __name__ == "__main__":
    main()
