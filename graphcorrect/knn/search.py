"""`knn`: the most similar keys of each query, by whichever backend."""

from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from graphcorrect import _checks
from graphcorrect._eager import has_triton, is_seen_full, may_hide
from graphcorrect._precision import full_precision, widen
from graphcorrect._typing import Backend, Scoring
from graphcorrect.knn import _faiss, _screen, _torch
from graphcorrect.ops.unit_rows import unit_rows

# Here, since torch 2.4 compiles no call of get_args
_BACKENDS, _SCORINGS = get_args(Backend), get_args(Scoring)
# Bytes of scores at a time. A CPU is fastest while a tile stays in its cache, a GPU when it has rows enough to fill.
DEFAULT_MEMORY_BUDGET = {"cpu": 16 * 2**20, "cuda": 256 * 2**20}
MOST_TRITON_NEIGHBORS = 60  # that "auto" leaves to triton: beyond, it does not sift
# Of a search that "auto" sifts by coarse scores: its queries; entries of a key where groups are large, of all keys
# where they are small
LEAST_ROWS, LEAST_DIM, LEAST_GROUP, LEAST_ENTRIES = 128, 32, 32, 2**18


class Neighbors(NamedTuple):
    """For each query its neighbors, the most similar first; both fields of shape (..., N, k).

    Attributes:
        similarity: in the dtype of the queries (half precision: float32 inside, cast back); -inf where there was no
            key left to take.
        index: int64, the position among the keys; 0 where `similarity` is -inf.
    """

    similarity: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, as in torch's own results


@torch.no_grad()
def knn(
    queries: Tensor,
    keys: Tensor | None,
    num_neighbors: int,
    *,
    backend: Backend = "auto",
    scoring: Scoring = "auto",
    exclude_self: bool = False,
    normalize: bool = True,
    key_mask: Tensor | None = None,
    memory_budget: int | None = None,
) -> Neighbors:
    """Finds the `num_neighbors` keys most similar to each query; exact, batched, without gradient.

    Args:
        queries: (..., N, D) floating point. Leading dimensions are separate problems.
        keys: (..., M, D) with the same leading dimensions, dtype and device; None searches among the queries.
        num_neighbors: k, at most M (M - 1 with `exclude_self`).
        backend: "torch" (tiled matrix product; CPU and CUDA; on a CPU faster where numba is installed), "faiss" (CPU
            or GPU build; computes in float32), "triton" (fused kernels; CUDA, float32 or half precision, k at most
            128), or "auto": "triton" on GPUs of Hopper's and Blackwell's data-center kind for k up to 60, and else
            "torch": on grids of DeepLab's sizes faster than faiss (`benchmarks/knn_throughput.py`). A named backend is
            used or refused, never replaced.
        scoring: how keys are sifted before what is left is scored in float32: "int8" or "bfloat16" ("torch" on the CPU,
            float32 or half precision), "float16" ("triton"), "float32" for no sifting, or "auto", which is the fastest
            that the processor has instructions for. The answer is that of "float32" whatever is chosen, up to its
            rounding.
        exclude_self: query i does not find key i; needs N = M. By index, so that duplicates of i are still found.
        normalize: True compares cosines (rows are normalised here, a zero row has cosine 0 with all), False inner
            products as they are.
        key_mask: (..., M) bool, True where a key may be found.
        memory_budget: bytes that scores and candidates of the "torch" backend may take at a time (never less than one
            row); None is 16 MiB on the CPU, 256 MiB elsewhere. Copies of the rows, unit or rounded, come on top.

    Returns:
        Neighbors of shape (..., N, k), sorted by falling similarity, ties in any order.

    Raises:
        ValueError: shapes, devices or `num_neighbors` do not fit, or not the chosen backend or scoring.
        TypeError: not floating point, dtypes differ, or `key_mask` is not bool; float64 with "triton".
        ImportError: the chosen backend is not installed; the message gives the install line.
    """
    _checks.floating("queries", queries)
    _checks.at_least_2d("queries", queries, "(..., N, D)")
    keys = queries if keys is None else keys
    _check_keys(queries, keys, key_mask)
    _checks.integer_at_least("num_neighbors", num_neighbors, 0)
    _checks.one_of("backend", backend, _BACKENDS)
    _checks.one_of("scoring", scoring, _SCORINGS)
    if memory_budget is None:
        memory_budget = DEFAULT_MEMORY_BUDGET.get(queries.device.type, DEFAULT_MEMORY_BUDGET["cuda"])
    _checks.integer_at_least("memory_budget", memory_budget, 1)
    num_queries, num_keys = queries.shape[-2], keys.shape[-2]
    if exclude_self and num_queries != num_keys:
        raise ValueError(
            f"expected `keys` with as many rows as `queries` for exclude_self, {num_queries}, got {num_keys}"
        )
    most = num_keys - 1 if exclude_self and num_keys else num_keys
    if num_neighbors > most:
        raise ValueError(
            f"expected `num_neighbors` of at most {most} ({num_keys} keys{', self excluded' if exclude_self else ''}), "
            f"got {num_neighbors}"
        )

    settings = (num_neighbors, backend, scoring, exclude_self, normalize, key_mask, memory_budget)
    find = _opaque if may_hide() else _find
    return Neighbors(*find(queries, None if keys is queries else keys, *settings))


def _find(
    queries: Tensor,
    keys: Tensor | None,
    num_neighbors: int,
    backend: str,
    scoring: str,
    exclude_self: bool,
    normalize: bool,
    key_mask: Tensor | None,
    memory_budget: int,
) -> tuple[Tensor, Tensor]:
    """:func:`knn` for arguments that fit; keys None: the queries."""
    backend = _chosen(backend, queries, num_neighbors)
    _check_scoring(scoring, backend, queries)
    shape = (*queries.shape[:-1], num_neighbors)
    batch = queries.shape[:-2].numel()
    queries_of = queries.reshape(batch, *queries.shape[-2:])
    keys_of = None if keys is None else keys.reshape(batch, *keys.shape[-2:])
    num_keys = (queries if keys is None else keys).shape[-2]
    mask = None if key_mask is None else key_mask.reshape(batch, num_keys)
    options: dict[str, Any] = {"exclude_self": exclude_self, "key_mask": mask}
    coarse = _coarse_dtypes(scoring, backend, queries, num_keys, num_neighbors)
    with full_precision(queries):
        if coarse and batch:
            similarity, index = _sifted(queries_of, keys_of, num_neighbors, normalize, coarse, memory_budget, options)
        elif backend == "triton":
            from graphcorrect.knn import _triton  # not above: it imports triton

            similarity, index = _triton.search(
                queries_of, keys_of, num_neighbors, normalize=normalize, sift=scoring != "float32", **options
            )
        else:
            rows = _unit_or_as_given(queries_of, normalize)
            key_rows = rows if keys_of is None else _unit_or_as_given(keys_of, normalize)
            if backend == "faiss":
                similarity, index = _faiss.search(rows, key_rows, num_neighbors, **options)
            else:
                similarity, index = _torch.search(rows, key_rows, num_neighbors, memory_budget=memory_budget, **options)
    if backend != "triton":  # which sees to it
        is_found = similarity != -torch.inf
        index = index if is_seen_full(is_found) else torch.where(is_found, index, 0)
    return similarity.to(queries.dtype).reshape(shape), index.reshape(shape)


def _chosen(backend: str, queries: Tensor, num_neighbors: int) -> str:
    """What "auto" stands for."""
    if backend != "auto":
        return backend
    is_served = queries.is_cuda and queries.dtype != torch.float64 and num_neighbors <= MOST_TRITON_NEIGHBORS
    if not is_served or torch.compiler.is_compiling() or not has_triton():
        return "torch"
    return "triton" if torch.cuda.get_device_capability(queries.device)[0] in (9, 10) else "torch"


def _check_scoring(scoring: str, backend: str, queries: Tensor) -> None:
    if scoring in ("auto", "float32"):
        return
    is_served = backend == "triton" if scoring == "float16" else _may_sift(backend, queries)
    if not is_served:
        raise ValueError(
            'expected `scoring` of "auto" or "float32" for anything but backend="triton" ("float16") and '
            'backend="torch" on the CPU below float64 ("int8", "bfloat16"), '
            f'got "{scoring}" for backend="{backend}", {queries.dtype} on {queries.device}'
        )


def _may_sift(backend: str, queries: Tensor) -> bool:
    """Whether :mod:`graphcorrect.knn._screen` serves such queries."""
    return backend == "torch" and queries.device.type == "cpu" and queries.dtype != torch.float64


def _coarse_dtypes(scoring: str, backend: str, queries: Tensor, num_keys: int, num_neighbors: int) -> list[torch.dtype]:
    """The dtypes whose scores sift the keys of the "torch" backend, in turn; none for a search in that of the rows."""
    group = _screen.group_size(num_keys, num_neighbors)
    if scoring == "float32" or group == 0 or not _may_sift(backend, queries):
        return []
    if scoring != "auto":
        return [torch.int8 if scoring == "int8" else torch.bfloat16]
    # By benchmarks/knn_throughput.py: products over fewer entries, or for few queries, do not earn what sifting costs
    # (and an exported program needs shapes that do not depend on the data)
    num_queries, dim = queries.shape[-2:]
    is_large = (group >= LEAST_GROUP and dim >= LEAST_DIM) or num_keys * dim >= LEAST_ENTRIES
    pays = num_queries >= LEAST_ROWS and is_large
    return list(_screen.fast_dtypes()) if pays and not torch.compiler.is_compiling() else []


def _sifted(
    queries: Tensor,
    keys: Tensor | None,
    num_neighbors: int,
    normalize: bool,
    coarse: list[torch.dtype],
    memory_budget: int,
    options: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """By coarse scores, an image at a time, so that no copy of all images is made; keys None: the queries."""
    shape = (*queries.shape[:-1], num_neighbors)
    similarity, index = queries.new_empty(shape, dtype=torch.float32), torch.empty(shape, dtype=torch.int64)
    dtypes: Sequence[torch.dtype] = coarse
    for image in range(len(queries)):
        rows = _unit_or_as_given(queries[image], normalize)
        key_rows = rows if keys is None else _unit_or_as_given(keys[image], normalize)
        mask = options["key_mask"]
        one = {**options, "key_mask": None if mask is None else mask[image]}
        found = similarity[image], index[image]
        dtypes = _screen.search(rows, key_rows, *found, dtypes=dtypes, memory_budget=memory_budget, **one)
    return similarity, index


def _unit_or_as_given(rows: Tensor, normalize: bool) -> Tensor:
    """Rows (..., N, D) in float32 or better."""
    rows = widen(rows).contiguous()  # which every backend reads faster than the columns that pixels are
    return unit_rows(rows) if normalize else rows


def _check_keys(queries: Tensor, keys: Tensor, key_mask: Tensor | None) -> None:
    _checks.floating("keys", keys)
    _checks.shape("keys", keys, (*queries.shape[:-2], *keys.shape[-2:-1], queries.shape[-1]), "to match `queries`")
    if keys.dtype != queries.dtype:
        raise TypeError(f"expected `keys` in the dtype of `queries`, {queries.dtype}, got {keys.dtype}")
    _checks.same_device("keys", keys, "`queries`", queries)
    if key_mask is not None:
        _checks.boolean("key_mask", key_mask)
        _checks.shape("key_mask", key_mask, keys.shape[:-1], "(one entry for each key)")
        _checks.same_device("key_mask", key_mask, "`keys`", keys)


# A compiler takes the search as it is: what it does depends on the data, and its kernels are written already
_opaque = torch.library.custom_op(
    "graphcorrect::knn",
    _find,
    mutates_args=(),
    schema="(Tensor queries, Tensor? keys, SymInt num_neighbors, str backend, str scoring, bool exclude_self, "
    "bool normalize, Tensor? key_mask, SymInt memory_budget) -> (Tensor, Tensor)",
)


@_opaque.register_fake
def _like_found(queries: Tensor, keys: Tensor | None, num_neighbors: int, *settings: object) -> tuple[Tensor, Tensor]:
    """Tensors like those that the search returns."""
    shape = (*queries.shape[:-1], num_neighbors)
    return queries.new_empty(shape), queries.new_empty(shape, dtype=torch.int64)
