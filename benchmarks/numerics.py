"""How far each operation is from float64: by precision, over many nodes, and after a million updates.

python benchmarks/numerics.py                    # some minutes; --updates 20000: the committed run, seconds
python benchmarks/numerics.py --smoke            # seconds
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _harness import relative_error
from _records import RESULTS, Smoke, save_record
from torch import Tensor

from graphcorrect import (
    AnchorBank,
    ClassConsistencyGraph,
    DualGraphRefiner,
    EMATeacher,
    KNNAffinity,
    PrototypeBank,
    clg_loss,
    knn,
    slg_loss,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def anchored(features: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
    bank = AnchorBank(5, features.shape[-1]).to(torch.promote_types(features.dtype, torch.float32))
    bank.update(features, labels)
    posterior: Tensor = bank(queries)
    return posterior


def averaged(features: Tensor, labels: Tensor) -> Tensor:
    bank = PrototypeBank(5, features.shape[-1]).to(torch.promote_types(features.dtype, torch.float32))
    bank.update(features, labels)
    return bank.prototypes[0]


def operations(num_nodes: int) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Name -> a function of features (N, 32), probabilities and logits (N, 5); labels and edges are the same in all."""
    labels = torch.randint(5, (num_nodes,), generator=torch.Generator().manual_seed(3))
    prototypes = numbers(5, 32, seed=4)
    return {
        "knn: similarity": lambda x, p, z: knn(x, None, 10, exclude_self=True).similarity,
        "KNNAffinity: graph @ p": lambda x, p, z: KNNAffinity(10)(x) @ p,
        "ClassConsistencyGraph: graph @ x": lambda x, p, z: ClassConsistencyGraph()(p) @ x,
        "DualGraphRefiner: soft labels": lambda x, p, z: DualGraphRefiner(5, 32)(x, z).soft_labels,
        "DualGraphRefiner: features": lambda x, p, z: DualGraphRefiner(5, 32)(x, z).features[-1],
        "slg_loss": lambda x, p, z: slg_loss(x, labels, prototypes.to(x.dtype)),
        "clg_loss": lambda x, p, z: clg_loss(p, labels),
        "PrototypeBank: prototypes": lambda x, p, z: averaged(x, labels),
        "AnchorBank: posterior": lambda x, p, z: anchored(x, labels, x[:100]),
    }


def errors(num_nodes: int) -> list[dict[str, object]]:
    """Largest error, relative to the largest entry, against float64 on the same rounded input; also of gradients."""
    rows: list[dict[str, object]] = []
    for name, operation in operations(num_nodes).items():
        for dtype in DTYPES:
            logits = numbers(num_nodes, 5, seed=2)
            narrow = [given.to(dtype) for given in (numbers(num_nodes, 32, seed=1), logits.softmax(-1), logits)]
            found, wanted = (
                [part.detach().requires_grad_() for part in (t.to(kind) for t in narrow)]
                for kind in (dtype, torch.float64)
            )
            result, expected = operation(*found), operation(*wanted)
            row: dict[str, object] = {"operation": name, "dtype": str(dtype).removeprefix("torch.")}
            row["value"] = relative_error(result.detach().double(), expected.detach())
            if expected.requires_grad:
                direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(5)).double()
                gradients = []
                for output, inputs in ((result, found), (expected, wanted)):
                    scalar = (output.double() * direction).sum()
                    parts = torch.autograd.grad(scalar, inputs, allow_unused=True)
                    gradients.append(torch.cat([g.double().flatten() for g in parts if g is not None]))
                row["gradient"] = relative_error(*gradients)
            rows.append(row)
    return rows


def cancellation(num_nodes: int, spreads: tuple[float, ...]) -> list[dict[str, object]]:
    """The closed forms where they subtract large sums: nearly equal features and nearly one-hot probabilities.

    Expected values are sums over pairs, or the closed forms themselves, in float64.
    """
    rows: list[dict[str, object]] = []
    labels = torch.zeros(num_nodes, dtype=torch.int64)
    for spread in spreads:
        features = (torch.ones(16, dtype=torch.float64) + spread * numbers(num_nodes, 16, seed=6)).float()
        loss = slg_loss(features, labels, balance=1.0, num_classes=2)
        exact = slg_loss(features.double(), labels, balance=1.0, num_classes=2)
        # The mean of (v_i . v_j - 1)^2 = |v_i - v_j|^4 / 4 over pairs, which cancels nothing
        v = torch.nn.functional.normalize(features.double(), dim=-1)
        some = v[:: max(1, num_nodes // 2000)]
        pairs = (torch.cdist(some, some).pow(4) / 4).mean()
        logits = numbers(num_nodes, 5, seed=7) + torch.tensor([0.0, 0, 0, 0, 12.0])
        p = (logits / max(spread, 1e-3)).softmax(-1).float()
        values = numbers(num_nodes, 4, seed=8).float()
        graph, wanted = ClassConsistencyGraph()(p), ClassConsistencyGraph()(p.double())
        rows.append(
            {
                "num_nodes": num_nodes,
                "spread": spread,
                "loss": float(exact),
                "loss error": float((loss - exact).abs()),
                "loss over sampled pairs": float(pairs),
                "degree error": relative_error(graph.degree().double(), wanted.degree()),
                "product error": relative_error((graph @ values).double(), wanted @ values.double()),
            }
        )
    return rows


def fp16_loss_scale(num_nodes: int) -> dict[str, object]:
    """The largest power of two by which both losses can be scaled before a gradient in float16 overflows."""
    features = numbers(num_nodes, 32, seed=1).half()
    logits = numbers(num_nodes, 5, seed=2).half()
    labels = torch.randint(5, (num_nodes,), generator=torch.Generator().manual_seed(3))
    limits: dict[str, object] = {"num_nodes": num_nodes}
    for name, values, loss_of in (
        ("slg_loss", features, lambda x: slg_loss(x, labels)),
        ("clg_loss", logits, lambda z: clg_loss(z.softmax(-1), labels)),
    ):
        largest = smallest_kept = 0.0
        for power in range(40):
            leaf = values.clone().requires_grad_()
            (loss_of(leaf) * 2.0**power).backward()
            assert leaf.grad is not None
            if not leaf.grad.isfinite().all():
                break
            largest = 2.0**power
            kept = float((leaf.grad != 0).double().mean())
            smallest_kept = smallest_kept or (2.0**power if kept > 0.99 else 0.0)
        limits[name] = {"largest finite scale": largest, "scale that keeps 99 % of entries": smallest_kept}
    return limits


def drift(updates: int) -> list[dict[str, object]]:
    """Running means after many updates with noise around a known value, against the same recursion in float64."""
    bank = PrototypeBank(1, 8, momentum=0.99)
    student = torch.nn.Linear(8, 1, bias=False)
    teacher = EMATeacher(student, momentum=0.999)
    labels = torch.zeros(1, dtype=torch.int64)
    rows = (numbers(4096, 1, 8, seed=9) * 0.1 + 100.0).float()
    exact = rows.double().numpy()
    prototype, weight = exact[0].copy(), teacher.module.weight.detach().double().numpy().copy()
    for number in range(updates):
        row = rows[number % len(rows)]
        bank.update(row, labels)
        student.weight.data = row
        teacher.update(student)
        prototype = 0.99 * prototype + 0.01 * exact[number % len(rows)]
        weight = 0.999 * weight + 0.001 * exact[number % len(rows)]
    return [
        {"state": name, "updates": updates, "error": relative_error(mine.detach().double(), torch.from_numpy(wanted))}
        for name, mine, wanted in (
            ("PrototypeBank, momentum 0.99", bank.prototypes[0], prototype),
            ("EMATeacher, momentum 0.999", teacher.module.weight, weight),
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action=Smoke)
    parser.add_argument("--updates", type=int, default=1_000_000, help="of the running means")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    content = {
        "errors": errors(60 if args.smoke else 1000),
        "cancellation": cancellation(200 if args.smoke else 160_000, (1.0, 1e-2, 1e-4, 0.0)),
        "fp16 loss scale": fp16_loss_scale(100 if args.smoke else 16_384),
        "drift": drift(100 if args.smoke else args.updates),
    }
    path = save_record("numerics", content, device=torch.device("cpu"), folder=args.out)
    print(f"wrote {path} in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
