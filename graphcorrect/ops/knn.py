"""`knn`: the most similar keys of each query."""

from typing import NamedTuple, get_args

import torch
from torch import Tensor

from graphcorrect import _checks
from graphcorrect.ops.neighbors import PreparedKeys, neighbors
from graphcorrect.ops.typing import Backend, Scoring

# Here, since torch 2.4 compiles no call of get_args
_BACKENDS, _SCORINGS = get_args(Backend), get_args(Scoring)


class Neighbors(NamedTuple):
    """For each query its neighbors, the most similar first; both fields of shape (..., N, k).

    Attributes:
        similarity: in the dtype of the queries (half precision: float32 inside, cast back); -inf where there was no
            key left to take.
        index: int64, the position among the keys; 0 where `similarity` is -inf.

    Example:
        >>> knn(torch.eye(3), None, 1, exclude_self=True).similarity
        tensor([[0.],
                [0.],
                [0.]])
    """

    similarity: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, as in torch's own results


@torch.no_grad()
def knn(
    queries: Tensor,
    keys: Tensor | PreparedKeys | None,
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
        keys: (..., M, D) with the same leading dimensions, dtype and device; None searches among the queries. Keys that
            stay the same for many searches can be prepared once, by :func:`graphcorrect.ops.neighbors.prepare`.
        num_neighbors: k, at most M (M - 1 with `exclude_self`).
        backend: "torch" (tiled matrix product; CPU and CUDA; on a CPU faster where numba is installed), "faiss" (CPU
            or GPU build; computes in float32), "triton" (fused kernels; CUDA, float32 or half precision, k at most
            128), or "auto": "triton" on GPUs of Hopper's and Blackwell's data-center kind for k up to 60, "faiss" where
            it is installed and the CPU has AVX2 and no more, and else "torch" (`benchmarks/knn_throughput.py`). A named
            backend is used or refused, never replaced. "faiss-ivf" is approximate, for a million keys: it looks into
            the lists of an inverted file that are nearest to a query.
        scoring: how keys are filtered before the rest is scored in float32: "int8" or "bfloat16" ("torch" on the CPU,
            float32 or half precision), "float16" ("triton"), "float32" for no filter, or "auto", which is the fastest
            that the processor has instructions for. The answer is that of "float32" whatever is chosen, up to its
            rounding.
        exclude_self: query i does not find key i; needs N = M. By index, so that duplicates of i are still found.
        normalize: True compares cosines (rows are normalised here, a zero row has cosine 0 with all), False inner
            products as they are.
        key_mask: (..., M) bool, True where a key may be found.
        memory_budget: bytes that scores and candidates of the "torch" backend may take at a time (never less than one
            row); None is 16 MiB on the CPU (up to 64 MiB for a bank of many keys), 256 MiB elsewhere. Copies of the
            rows, unit or quantized, come on top.

    Returns:
        Neighbors of shape (..., N, k), sorted by falling similarity, ties in any order.

    Raises:
        ValueError: shapes, devices or `num_neighbors` do not fit, or not the chosen backend or scoring.
        TypeError: not floating point, dtypes differ, or `key_mask` is not bool; float64 with "triton".
        ImportError: the chosen backend is not installed; the message gives the install line.

    Example:
        >>> keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> similarity, index = knn(torch.tensor([[2.0, 0.1]]), keys, num_neighbors=2)
        >>> index
        tensor([[0, 1]])
    """
    _checks.floating("queries", queries)
    _checks.at_least_2d("queries", queries, "(..., N, D)")
    prepared: PreparedKeys | None = None
    if isinstance(keys, PreparedKeys):
        if exclude_self or key_mask is not None:
            raise ValueError("expected no `exclude_self` or `key_mask` with prepared keys; mask them in prepare()")
        prepared, keys = keys, keys.rows
    all_keys = queries if keys is None else keys
    _check_keys(queries, all_keys, key_mask)
    _checks.integer_at_least("num_neighbors", num_neighbors, 0)
    _checks.one_of("backend", backend, _BACKENDS)
    _checks.one_of("scoring", scoring, _SCORINGS)
    if memory_budget is not None:
        _checks.integer_at_least("memory_budget", memory_budget, 1)
    num_queries, num_keys = queries.shape[-2], all_keys.shape[-2]
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

    given = None if all_keys is queries else all_keys
    quantized = [] if prepared is None else list(prepared.quantized)
    similarity, index = neighbors(
        queries, given, key_mask, num_neighbors, exclude_self, normalize, backend, scoring, memory_budget, quantized
    )
    return Neighbors(similarity, index if prepared is None else prepared.index[index])


def _check_keys(queries: Tensor, keys: Tensor, key_mask: Tensor | None) -> None:
    _checks.floating("keys", keys)
    _checks.shape("keys", keys, (*queries.shape[:-2], *keys.shape[-2:-1], queries.shape[-1]), "to match `queries`")
    if keys.dtype != queries.dtype:
        raise TypeError(f"expected `keys` in the dtype of `queries`, {queries.dtype}, got {keys.dtype}")
    _checks.same_device("keys", keys, "`queries`", queries)
    _checks.mask("key_mask", key_mask, keys.shape[:-1], "(one entry for each key)", "`keys`", keys)
