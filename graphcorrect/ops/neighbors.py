"""Neighbor search: the definition, its operator, and the rule that says which kernel serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from graphcorrect.ops._dispatch import Kernel, Operation, numba_refuses, triton_is_missing
from graphcorrect.ops.kernels import faiss
from graphcorrect.ops.kernels.cpu import filtered_search
from graphcorrect.ops.kernels.cpu.quantized import QuantizedKeys, quantize_keys
from graphcorrect.ops.kernels.cpu.topk import topk_by_groups
from graphcorrect.ops.search import Search
from graphcorrect.ops.unit_rows import compared_rows
from graphcorrect.ops.values import full_precision

MIN_GROUPED_KEYS = 1024  # from which on a CPU finds the largest scores by way of groups
MAX_TRITON_NEIGHBORS = 60  # beyond, Triton's kernels do not filter
# Of a search whose keys "auto" filters by quantized scores: its queries; entries of a key where groups are large, of
# all keys where they are small (by benchmarks/knn_throughput.py)
MIN_QUERIES, MIN_DIM, MIN_GROUP, MIN_ENTRIES = 128, 32, 32, 2**18


def definition(
    queries: Tensor, keys: Tensor, key_mask: Tensor | None, num_neighbors: int, own: int | None = None
) -> tuple[Tensor, Tensor]:
    """The keys (..., M, D) of largest inner product for each query (..., N, D): similarity, index (..., N, k).

    Keys outside `key_mask` (..., M) are not found, nor is key i + `own` by query i. Index 0 where similarity is -inf,
    for want of keys.
    """
    scores = queries @ keys.mT
    if key_mask is not None:
        scores.masked_fill_(~key_mask[..., None, :], -torch.inf)
    if own is not None:
        scores.diagonal(own, -2, -1).fill_(-torch.inf)
    # On a GPU, and for few keys, the way by groups costs more
    best = topk_by_groups if scores.device.type == "cpu" and scores.shape[-1] >= MIN_GROUPED_KEYS else torch.topk
    similarity, index = best(scores, num_neighbors)
    return similarity, index if key_mask is None else index.masked_fill_(similarity == -torch.inf, 0)


def in_tiles(call: Search) -> tuple[Tensor, Tensor]:
    """The definition, as many whole images or rows of one image at a time as `memory_budget` bytes of scores hold."""
    queries = compared_rows(call.queries, call.normalize)
    keys = queries if call.keys is None else compared_rows(call.keys, call.normalize and not call.prepared)
    batch, num_queries, _ = queries.shape
    row_bytes = 2 * max(1, keys.shape[1]) * queries.element_size()  # scores, and a copy, since topk works on one
    rows = max(1, min(num_queries, call.memory_budget // row_bytes))
    images = max(1, call.memory_budget // (row_bytes * max(1, num_queries))) if rows == num_queries else 1
    if images >= batch:
        return definition(queries, keys, call.key_mask, call.num_neighbors, 0 if call.exclude_self else None)
    similarity, index = call.answer()
    for first in range(0, batch, images):
        image = slice(first, first + images)
        mask = None if call.key_mask is None else call.key_mask[image]
        for start in range(0, num_queries, rows):
            tile = slice(start, start + rows)
            own = start if call.exclude_self else None
            best = definition(queries[image, tile], keys[image], mask, call.num_neighbors, own)
            similarity[image, tile], index[image, tile] = best
    return similarity, index


def _triton_refuses(*args: Any) -> str | None:
    call = Search(*args)
    if call.backend != "auto":
        return call.asks_for("triton")
    if call.queries.device.type != "cuda":
        return f"Triton's kernels run on CUDA devices, not on {call.queries.device.type}"
    if call.queries.dtype == torch.float64:
        return "Triton's kernels take float32 or half precision, not torch.float64"
    if call.num_neighbors > MAX_TRITON_NEIGHBORS:
        return f"beyond {MAX_TRITON_NEIGHBORS} neighbors Triton's kernels do not filter"
    if torch.cuda.get_device_capability(call.queries.device)[0] not in (9, 10):
        return "Triton's kernels were timed on GPUs of compute capability 9 and 10 only"
    return triton_is_missing()


def _faiss_refuses(*args: Any) -> str | None:
    call = Search(*args)
    if call.backend != "auto":
        return call.asks_for("faiss", "faiss-ivf")
    if call.queries.device.type != "cpu" or call.queries.dtype == torch.float64:
        return f'for {call.queries.dtype} on {call.queries.device.type} it is used where backend="faiss" is asked for'
    if call.scoring != "auto":
        return f'scoring="{call.scoring}" is asked for'
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        return "faiss is faster than torch on processors with AVX2 and no more, and this one is of another kind"
    return None if faiss.is_installed() else "faiss is not installed: pip install faiss-cpu"


def _filter_refuses(*args: Any) -> str | None:
    call = Search(*args)
    if call.backend not in ("auto", "torch"):
        return call.asks_for()
    if call.queries.device.type != "cpu" or call.queries.dtype == torch.float64:
        return (
            f"quantized scores serve float32 and half precision on a CPU, not {call.queries.dtype} there or elsewhere"
        )
    num_queries, dim = call.queries.shape[-2:]
    group = filtered_search.group_size(call.num_keys, call.num_neighbors)
    if group == 0 or num_queries == 0:
        return f"{call.num_keys} keys are too few to filter for {call.num_neighbors} neighbors"
    if call.scoring != "auto":
        return None if call.scoring != "float32" else 'scoring="float32" is asked for'
    if not filtered_search.fast_dtypes():
        return "this processor multiplies neither 8-bit integers nor bfloat16 faster than float32"
    is_large = (group >= MIN_GROUP and dim >= MIN_DIM) or call.num_keys * dim >= MIN_ENTRIES
    return None if num_queries >= MIN_QUERIES and is_large else "the products are too small for a filter to pay"


def _numba_refuses(*args: Any) -> str | None:
    return _filter_refuses(*args) or numba_refuses()


NEIGHBORS = Operation(
    "neighbors",
    in_tiles,
    Kernel("triton", _triton_refuses, "graphcorrect.ops.kernels.cuda.topk", "search"),
    Kernel("faiss", _faiss_refuses, "graphcorrect.ops.kernels.faiss", "search"),
    Kernel("numba", _numba_refuses, "graphcorrect.ops.kernels.cpu.filtered_search", "search_by_numba"),
    Kernel("quantized", _filter_refuses, "graphcorrect.ops.kernels.cpu.filtered_search", "search"),
)


@torch.library.custom_op(
    "graphcorrect::neighbors",
    mutates_args=(),
    schema="(Tensor queries, Tensor? keys, Tensor? key_mask, SymInt num_neighbors, bool exclude_self, bool normalize, "
    "str backend, str scoring, SymInt? memory_budget, Tensor[] prepared) -> (Tensor, Tensor)",
)
def neighbors(
    queries: Tensor,
    keys: Tensor | None,
    key_mask: Tensor | None,
    num_neighbors: int,
    exclude_self: bool,
    normalize: bool,
    backend: str,
    scoring: str,
    memory_budget: int | None,
    prepared: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """The search for arguments that fit: similarity in the dtype of `queries`, and index, both (..., N, k).

    keys None: the queries. Keys that are `prepared` are compared as they are.
    """
    if memory_budget is None:
        memory_budget = _memory_budget((queries if keys is None else keys).shape[-2], queries.device.type)
    batch, shape = queries.shape[:-2].numel(), (*queries.shape[:-1], num_neighbors)
    rows = queries.reshape(batch, *queries.shape[-2:])
    of_keys = None if keys is None else keys.reshape(batch, *keys.shape[-2:])
    mask = None if key_mask is None else key_mask.reshape(batch, key_mask.shape[-1])
    settings = (num_neighbors, exclude_self, normalize, backend, scoring, memory_budget, prepared)
    call = Search(rows, of_keys, mask, *settings)
    kernel = NEIGHBORS.choose(*call)
    _check_scoring(
        scoring, "torch" if kernel is None or kernel.name in ("numba", "quantized") else kernel.name, queries
    )
    with full_precision(queries):
        search = in_tiles if kernel is None else kernel.load()
        similarity, index = search(call)
    return similarity.to(queries.dtype).reshape(shape), index.reshape(shape)


@neighbors.register_fake
def _(queries: Tensor, keys: Tensor | None, key_mask: Tensor | None, num_neighbors: int, *_: object) -> object:
    shape = (*queries.shape[:-1], num_neighbors)
    return queries.new_empty(shape), queries.new_empty(shape, dtype=torch.int64)


def _memory_budget(num_keys: int, device_type: str) -> int:
    """Bytes of scores at a time: a GPU is fastest when rows fill it, a CPU while scores stay in its cache.

    But a product of few queries reads all keys for each of them, so that a CPU takes a hundred at least.
    """
    return 256 * 2**20 if device_type != "cpu" else max(16 * 2**20, min(64 * 2**20, 896 * num_keys))


def _check_scoring(scoring: str, backend: str, queries: Tensor) -> None:
    if scoring in ("auto", "float32"):
        return
    is_on_cpu = queries.device.type == "cpu" and queries.dtype != torch.float64
    if not (backend == "triton" if scoring == "float16" else backend == "torch" and is_on_cpu):
        raise ValueError(
            'expected `scoring` of "auto" or "float32" for anything but backend="triton" ("float16") and '
            'backend="torch" on the CPU below float64 ("int8", "bfloat16"), '
            f'got "{scoring}" for backend="{backend}", {queries.dtype} on {queries.device}'
        )


class PreparedKeys(NamedTuple):
    """Keys to be searched many times: masked, made unit rows and quantized once.

    Attributes:
        rows: (M', D), the keys under the mask as they are compared.
        index: (M',) int64, which of the keys given each of them is.
        quantized: their quantized rows, and what the bounds on errors need; empty where no kernel asks for it.
    """

    rows: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index
    quantized: tuple[Tensor, ...]


@torch.no_grad()
def prepare(keys: Tensor, key_mask: Tensor | None = None, *, normalize: bool = True) -> PreparedKeys:
    """Keys (M, D), those under `key_mask` (M,), for many searches. On a GPU this waits for the device."""
    index = torch.arange(len(keys), device=keys.device) if key_mask is None else key_mask.nonzero()[:, 0]
    rows = compared_rows(keys if key_mask is None else keys[index], normalize)
    quantized: QuantizedKeys | None = None
    if rows.device.type == "cpu" and rows.dtype == torch.float32 and len(rows) and filtered_search.fast_dtypes():
        numba_quantize = filtered_search.numba_file("quantize") if numba_refuses() is None else None
        quantized = quantize_keys(rows, filtered_search.fast_dtypes()[0], numba_quantize)
    return PreparedKeys(rows, index, tuple(quantized or ()))
