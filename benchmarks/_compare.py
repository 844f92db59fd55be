"""Runs one of our exact linear forms against its dense twin over several sizes, and prints and saves the outcome."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from _harness import (
    Case,
    human_bytes,
    peak_memory,
    reference_of,
    relative_error,
    save,
    time_in_turn,
    with_captured,
)
from _records import Smoke
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """Two or more functions of features that should agree, made for a constant; all run forward and backward."""

    name: str
    title: str
    inputs: Callable[[int, int, int, torch.device], tuple[Tensor, Tensor]]
    sides: dict[str, Callable[[Tensor], Callable[[Tensor], Tensor]]]

    def build(
        self, side: str, sizes: tuple[int, int, int], device: torch.device
    ) -> Callable[[], tuple[Tensor, Tensor]]:
        """A call that computes value and gradient of one side."""
        constant, features = self.inputs(*sizes, device)
        function = self.sides[side](constant)
        # A fixed random weight for each entry of the result: a plain sum would hide errors that cancel.
        with torch.no_grad():
            probe = torch.randn(features.shape, generator=torch.Generator().manual_seed(1)).to(device)

        def run() -> tuple[Tensor, Tensor]:
            leaf = features.detach().requires_grad_()
            value = function(leaf)
            (gradient,) = torch.autograd.grad(value, leaf, probe if value.ndim else None)
            return value.detach(), gradient

        return run


def main(problem: Problem, description: str | None) -> None:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1089, 4096, 10000, 40000], help="N, nodes of an image")
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--dim", type=int, default=256, help="D, entries of a feature")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds of each side")
    parser.add_argument("--dense-limit", type=int, default=10000, help="largest N at which the dense side runs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; default: torch's own")
    parser.add_argument("--out", type=Path, help="folder of the JSON; default: that of the device")
    parser.add_argument("--smoke", action=Smoke)
    args = parser.parse_args()
    if args.smoke:
        args.nodes, args.rounds = [256, 1089], 3
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)

    print(f"{problem.title}; C={args.classes}, D={args.dim}, float32, {device}, {torch.get_num_threads()} threads")
    print(f"{'N':>7}  {'side':<24}{'median ms':>11}{'peak memory':>16}{'time / ours (95 %)':>26}{'rel. error':>12}")
    cases = []
    for num_nodes in args.nodes:
        sizes = (num_nodes, args.classes, args.dim)
        case = Case({"num_nodes": num_nodes, "num_classes": args.classes, "feature_dim": args.dim})
        names = [name for name in problem.sides if name == "graphcorrect" or num_nodes <= args.dense_limit]
        runs = {name: problem.build(name, sizes, device) for name in names}
        results = {name: run() for name, run in runs.items()}
        for name in names[1:]:
            errors = [relative_error(*pair) for pair in zip(results["graphcorrect"], results[name], strict=True)]
            case.agreement[name] = max(errors)
            if max(errors) > 1e-4:
                raise SystemExit(f"graphcorrect and {name} disagree at N={num_nodes}: {errors} (value, gradient)")
        del results
        case.seconds = time_in_turn(with_captured(runs, device), rounds=args.rounds, device=device)
        case.peak_bytes = {name: peak_memory(problem.build, name, sizes, device, device=device) for name in names}
        cases.append(case)
        for name in case.seconds:
            ours = reference_of(name, "graphcorrect")
            ratio = "" if name == ours else "{:.1f} ({:.1f}..{:.1f})".format(*case.ratio(name, ours))
            error = f"{case.agreement[name]:.1e}" if name in case.agreement else ""
            memory = human_bytes(case.peak_bytes[name]) if name in case.peak_bytes else ""
            print(
                f"{num_nodes:>7}  {name:<24}{1e3 * case.median_seconds(name):>11.2f}{memory:>16}{ratio:>26}{error:>12}",
                flush=True,
            )
    path = save(problem.name, cases, device=device, folder=args.out, dtype="float32", seed=0, rounds=args.rounds)
    print(f"wrote {path}")
