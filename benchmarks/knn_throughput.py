"""Neighbor search: queries a second of every backend at hand, on grids that segmentation networks make.

    python benchmarks/knn_throughput.py                      # the committed run, some minutes on a CPU
    python benchmarks/knn_throughput.py --device cuda        # on a GPU
    python benchmarks/knn_throughput.py --smoke              # seconds

Run it before you choose a `backend=`. Nodes search among themselves, self excluded, by cosine; features are pixels of
smooth random fields, so that neighbors are as close and as many as in a real map. Recall is against a float64 search
of the same rows, up to ties.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _harness import (
    ALONE,
    Case,
    alone,
    ceilings,
    has_loops,
    human_bytes,
    peak_memory,
    save,
    time_in_turn,
    with_captured,
)
from _records import Smoke
from torch import Tensor

from graphcorrect import knn
from graphcorrect.ops.kernels import faiss as _faiss

SHAPES = {
    "cpu": [(8, 1089), (8, 4225), (1, 4096), (1, 10000)],
    "cuda": [(8, 1089), (1, 4096), (8, 4096), (8, 9216), (8, 16384), (1, 40000)],
}
SMOKE_SHAPES = [(2, 289), (1, 1089)]
IVF_NODES = 10_000  # below, building an index takes longer than the search


@functools.lru_cache(maxsize=1)
def inputs(batch: int, num_nodes: int, feature_dim: int, device: torch.device) -> Tensor:
    """(B, N, D) unit rows, pixels of fields that vary over about four pixels, plus noise."""
    generator = torch.Generator().manual_seed(0)
    side = int(num_nodes**0.5) + 1
    coarse = torch.randn(batch, feature_dim, side // 4 + 2, side // 4 + 2, generator=generator)
    maps = F.interpolate(coarse, size=(side, side), mode="bilinear").flatten(2).transpose(1, 2)[:, :num_nodes]
    return F.normalize(maps + 0.3 * torch.randn(maps.shape, generator=generator), dim=-1).to(device)


def matmul_topk(rows: Tensor, count: int) -> Tensor:
    """What people write themselves: all scores, of an image on a CPU and of all images on a GPU, then topk."""
    found = []
    for part in rows.split(len(rows) if rows.is_cuda else 1):
        scores = part @ part.mT
        scores.diagonal(dim1=-2, dim2=-1).fill_(-torch.inf)
        found.append(scores.topk(count).indices)
    return torch.cat(found)


def tf32_matmul_topk(rows: Tensor, count: int) -> Tensor:
    """The same with tf32 products, as many allow them: neighbors close to the last one can be lost."""
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return matmul_topk(rows, count)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def flashlib_knn(rows: Tensor, count: int) -> Tensor:
    """Batched exact search by another library's Triton kernels; it finds a node itself too, and nearest means L2."""
    from flashlib import flash_knn  # pip install flashlib

    index = flash_knn(rows, rows, count + 1, return_distances=False)
    own = torch.arange(rows.shape[1], device=rows.device)[:, None]
    order = (index == own).to(torch.int8).argsort(dim=-1, stable=True)
    return index.gather(-1, order)[..., :count].long()


def sides(device: torch.device, num_nodes: int) -> dict[str, Callable[[Tensor, int], Tensor]]:
    """Every search that runs here, by name."""
    found: dict[str, Callable[[Tensor, int], Tensor]] = {
        "auto": lambda rows, count: knn(rows, None, count, exclude_self=True).index,
    }
    if has_loops(device):
        found["auto" + ALONE] = alone(found["auto"])
    if _faiss.is_installed() and (device.type == "cpu" or _faiss.gpu_works()):
        found["faiss"] = lambda rows, count: knn(rows, None, count, exclude_self=True, backend="faiss").index
        if device.type == "cpu" and num_nodes >= IVF_NODES:  # approximate: read it beside its recall
            found["faiss-ivf"] = lambda rows, count: (
                knn(rows, None, count, exclude_self=True, backend="faiss-ivf").index
            )
    if device.type == "cuda" and importlib.util.find_spec("flashlib"):
        found["flashlib"] = flashlib_knn
    if device.type == "cuda":
        found["torch"] = lambda rows, count: knn(rows, None, count, exclude_self=True, backend="torch").index
    found["matmul + topk"] = matmul_topk
    if device.type == "cuda":
        found["tf32 matmul + topk"] = tf32_matmul_topk
    return found


def build(
    name: str, batch: int, num_nodes: int, feature_dim: int, count: int, device: torch.device
) -> Callable[[], Any]:
    rows = inputs(batch, num_nodes, feature_dim, device)
    search = sides(device, num_nodes)[name]
    return lambda: search(rows, count)


def recall(index: Tensor, rows: Tensor, count: int, num_queries: int = 256) -> float:
    """Share of neighbors at least as similar as the true last one, in float64, over some queries of each image."""
    right = total = 0
    step = max(1, rows.shape[1] // num_queries)
    for found, image in zip(index, rows.double(), strict=True):
        queries = torch.arange(0, len(image), step, device=rows.device)
        scores = image[queries] @ image.T
        scores[torch.arange(len(queries), device=rows.device), queries] = -torch.inf
        worst = scores.topk(count).values[:, -1:]
        # float32 cannot tell similarities apart that differ by less than its rounding
        right += int((scores.gather(1, found[queries]) >= worst - 1e-6).sum())
        total += len(queries) * count
    return right / total


def least_seconds(sizes: dict[str, Any], limits: dict[str, float]) -> float:
    """No search of all pairs is faster: one half-precision product, or rows read and results written once."""
    batch, num_nodes, dim, count = (sizes[key] for key in ("batch", "num_nodes", "feature_dim", "num_neighbors"))
    operations = 2 * batch * num_nodes**2 * dim
    moved = batch * num_nodes * (4 * dim + 12 * count)
    return max(operations / limits["float16 FLOP/s"], moved / limits["bytes/s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--neighbors", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, help="folder of the JSON; default: that of the device")
    parser.add_argument("--smoke", action=Smoke)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    shapes, rounds = (SMOKE_SHAPES, 3) if args.smoke else (SHAPES[device.type], args.rounds)

    print(f"k={args.neighbors}, D={args.dim}, float32, {device}, {torch.get_num_threads()} threads")
    print(f"{'B x N':>10}  {'search':<20}{'queries/s':>12}{'peak memory':>16}{'time / auto (95 %)':>26}{'recall':>9}")
    limits = ceilings(device)
    cases = []
    for batch, num_nodes in shapes:
        case = Case({"batch": batch, "num_nodes": num_nodes, "feature_dim": args.dim, "num_neighbors": args.neighbors})
        sizes = (batch, num_nodes, args.dim, args.neighbors, device)
        runs = {name: build(name, *sizes) for name in sides(device, num_nodes)}
        runs |= with_captured({"auto": runs["auto"]}, device)
        rows = inputs(batch, num_nodes, args.dim, device)
        case.agreement = {name: recall(run(), rows, args.neighbors) for name, run in runs.items()}
        case.seconds = time_in_turn(runs, rounds=rounds, device=device, pause=0.02 if device.type == "cpu" else 0.0)
        case.peak_bytes = {name: peak_memory(build, name, *sizes, device=device) for name in sides(device, num_nodes)}
        cases.append(case)
        for name in runs:
            ratio = "" if name == "auto" else "{:.2f} ({:.2f}..{:.2f})".format(*case.ratio(name, "auto"))
            memory = human_bytes(case.peak_bytes[name]) if name in case.peak_bytes else ""
            print(
                f"{batch:>3} x{num_nodes:>6}  {name:<20}{batch * num_nodes / case.median_seconds(name):>12,.0f}"
                f"{memory:>16}{ratio:>26}{case.agreement[name]:>9.4f}",
                flush=True,
            )
        if limits:
            least = least_seconds(case.sizes, limits)
            times = case.median_seconds("auto") / least
            print(f"{'':>11}  auto takes {times:.1f} times the least time, {1e3 * least:.3f} ms", flush=True)
    settings = {"dtype": "float32", "seed": 0, "rounds": rounds, "limits": limits}
    if _faiss.is_installed():
        settings["faiss"] = _faiss.version()
    path = save("knn_throughput", cases, device=device, folder=args.out, **settings)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
