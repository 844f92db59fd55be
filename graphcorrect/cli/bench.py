"""`graphcorrect bench`: the neighbor search at somebody's own sizes."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from graphcorrect.cli.console import in_words
from graphcorrect.cli.devices import find_device
from graphcorrect.ops.kernels import faiss
from graphcorrect.ops.knn import knn
from graphcorrect.ops.neighbors import NEIGHBORS
from graphcorrect.ops.typing import Backend
from graphcorrect.ops.unit_rows import unit_rows

MOST_SCORES = 2**31  # bytes that the matrix of all scores may take

Search = Callable[[], Tensor]  # similarities (B, N, k)


@in_words()
def run(args: argparse.Namespace) -> None:
    """The command."""
    args.device = find_device(args.device)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, args.dtype)
    nodes = _clustered(args.batch, args.nodes, args.dim, generator).to(args.device, dtype)
    keys = None
    if args.keys is not None:
        keys = _clustered(args.batch, args.keys, args.dim, generator).to(args.device, dtype)
    among = "" if keys is None else f" among {_words(keys)}"
    where = f"{args.device}, {torch.get_num_threads()} thread(s)"
    print(f"{args.neighbors} neighbors of {_words(nodes)}{among}, {where}: {_serving(nodes, keys, args.neighbors)}")
    searches, left_out = candidates(nodes, keys, args.neighbors)
    for line in table(searches, args.repeats):
        print(line)
    for name, why in left_out.items():
        print(f"  {name:<22} not timed: {why}")


def candidates(nodes: Tensor, keys: Tensor | None, count: int) -> tuple[dict[str, Search], dict[str, str]]:
    """Searches by name, ours first, and why others are not among them."""

    def ours(backend: Backend) -> Search:
        return lambda: knn(nodes, keys, count, backend=backend, exclude_self=keys is None).similarity

    searches, left_out = {"graphcorrect": ours("auto")}, {}
    others = nodes if keys is None else keys
    scores = nodes.shape[0] * nodes.shape[1] * others.shape[1] * nodes.element_size()
    if scores <= MOST_SCORES:
        searches["product and topk"] = lambda: product_and_topk(nodes, keys, count)
    else:
        left_out["product and topk"] = f"its scores would take {scores / 2**30:.1f} GiB"
    if not faiss.is_installed():
        left_out["faiss"] = "not installed: pip install faiss-cpu"
    else:
        searches["faiss"] = ours("faiss")
    return searches, left_out


def product_and_topk(nodes: Tensor, keys: Tensor | None, count: int) -> Tensor:
    """What people write: unit rows, all products, the largest of each row."""
    rows = torch.nn.functional.normalize(nodes, dim=-1)
    others = rows if keys is None else torch.nn.functional.normalize(keys, dim=-1)
    scores = rows @ others.mT
    if keys is None:
        scores.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    return scores.topk(count).values


def table(searches: dict[str, Search], repeats: int) -> list[str]:
    """Medians of alternating runs, beside ours, once the answers were compared."""
    first, lines, failed = None, [], {}
    for name, search in searches.items():  # which warms them up, too
        try:
            found = search().float().cpu()
        except (RuntimeError, ValueError, ImportError) as error:
            failed[name] = str(error).splitlines()[0]
            continue
        first = found if first is None else first
        worst = float((found - first).abs().max())
        if worst > 0.02:
            failed[name] = f"its similarities differ by {worst:.2g}"
    times: dict[str, list[float]] = {name: [] for name in searches if name not in failed}
    for _ in range(repeats):
        for name, taken in times.items():
            taken.append(seconds_of(searches[name]))
    medians = {name: statistics.median(each) for name, each in times.items()}
    own = next(iter(medians.values()), 0.0)
    for name, median in medians.items():
        low, high = min(times[name]), max(times[name])
        ratio = "" if name == next(iter(medians)) else f"  {median / own:5.2f} of the time of graphcorrect"
        lines.append(f"  {name:<22} {1e3 * median:9.2f} ms  ({1e3 * low:.2f} to {1e3 * high:.2f}){ratio}")
    return lines + [f"  {name:<22} not timed: {why}" for name, why in failed.items()]


def seconds_of(search: Search) -> float:
    """Of one run; work that a device has queued counts too."""
    start = time.perf_counter()
    search().flatten()[:1].cpu()  # waits for the device
    return time.perf_counter() - start


def _clustered(batch: int, count: int, dim: int, generator: torch.Generator) -> Tensor:
    """Features (B, N, D) of 20 clusters: what is alike in images, unlike plain noise, has neighbors."""
    centers = torch.randn(20, dim, generator=generator)
    labels = torch.randint(20, (batch, count), generator=generator)
    return unit_rows(centers[labels] + 0.7 * torch.randn(batch, count, dim, generator=generator))


def _serving(nodes: Tensor, keys: Tensor | None, count: int) -> str:
    """What serves the search, and why nothing before it does, as `explain_backends` says it."""
    name, refused = NEIGHBORS.explain(nodes, keys, None, count, keys is None)
    return "\n".join([f"served by {name}", *(f"  not {other}: {why}" for other, why in refused.items())])


def _words(features: Tensor) -> str:
    batch, count, dim = features.shape
    return f"{batch} x {count} features of {dim} entries ({str(features.dtype).removeprefix('torch.')})"
