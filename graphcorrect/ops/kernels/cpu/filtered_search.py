"""Exact float32 search on a CPU: quantized scores leave a few keys to each query, and these are scored in float32.

Processors multiply 8-bit integers four times as fast as float32 numbers, and some bfloat16 twice as fast. So each query
scores all keys in few bits, with a proven bound on the error of every score (:class:`.quantized.Bounds`). Then

1. a level T is read off the scores: the k-th largest of the maxima of groups of keys, so that at least k keys reach it,
   and the k-th best score is at least T - error, if it had none;
2. so a key among the true k best has a score of at least T - 2 error. The keys that reach this, a few dozen, are scored
   in float32, and the best k of them are the answer;
3. numba's kernel scores those above T first. The k-th best of their products has no error, and leaves fewer others.

The answer is that of a float32 search, whatever the data. Data decide the time only: where similarities crowd closer
than the bound too many keys remain, and those queries are searched in float32 throughout.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from graphcorrect.ops.kernels.cpu.quantized import Bounds, QuantizedKeys, quantize_keys, quantize_queries, tiles
from graphcorrect.ops.kernels.cpu.topk import topk_by_groups
from graphcorrect.ops.search import Search
from graphcorrect.ops.unit_rows import compared_rows

FINE = 8  # keys whose maximum says whether to look at each of them
MIN_GROUPS = 3  # groups of keys for each neighbor: fewer would put T far below the k-th largest score
MIN_CANDIDATES = 32  # more than the k that are wanted, which are always worth their while
CANDIDATE = 2**13  # entries of a float32 product that take as long as one candidate
SCORES = 2**21  # at a time, or those of 128 queries


@functools.cache
def fast_dtypes() -> tuple[torch.dtype, ...]:
    """The dtypes whose matrices this processor multiplies faster than those of float32, the one to try first first."""
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() == "AVX2":  # type: ignore[no-untyped-call]
        return ()
    # With tiles of its own for matrices (AMX) a processor takes torch's bfloat16 product for less than its int8 one;
    # without them Intel's take it for more than that of float32
    has_tiles = _has("_is_amx_tile_supported")
    has_integers, has_bfloat16 = _has("_is_vnni_supported"), _has("_is_avx512_bf16_supported")
    name = str(getattr(torch.cpu, "get_capabilities", dict[str, object])().get("cpu_name", ""))
    pays = {
        torch.int8: has_integers and not (has_tiles and has_bfloat16),
        torch.bfloat16: has_bfloat16 and (has_tiles or "Intel" not in name),
    }
    return tuple(dtype for dtype in pays if pays[dtype])


def _has(name: str) -> bool:
    return bool(getattr(torch.cpu, name, lambda: False)())


def numba_file(name: str) -> ModuleType:
    """A file of numba kernels, which is imported where it is used, since it imports numba."""
    return importlib.import_module(f"graphcorrect.ops.kernels.cpu.{name}")


def group_size(num_keys: int, num_neighbors: int) -> int:
    """Keys in a group: a power of two up to 64, or 0 where there are too few keys for groups."""
    most = num_keys // (MIN_GROUPS * num_neighbors) if num_neighbors else 0
    return 0 if most < FINE else min(64, 2 ** (most.bit_length() - 1))


def search(call: Search, *, use_numba: bool = False) -> tuple[Tensor, Tensor]:
    """One image at a time, so that no copy of all images is made."""
    similarity, index = call.answer()
    quantized = QuantizedKeys(*call.prepared) if call.prepared else None
    own = torch.arange(index.shape[1]) if call.exclude_self else None
    dtypes: Sequence[torch.dtype] = fast_dtypes() if call.scoring == "auto" else [getattr(torch, call.scoring)]
    for image, rows in enumerate(call.queries):
        unit = compared_rows(rows, call.normalize)
        keys = unit if call.keys is None else compared_rows(call.keys[image], call.normalize and not call.prepared)
        mask = None if call.key_mask is None else call.key_mask[image]
        image_search = FilteredSearch(unit, keys, own, mask, call.memory_budget, use_numba)
        dtypes = image_search.run(dtypes, similarity[image], index[image], quantized)
    return similarity, index.masked_fill_(similarity == -torch.inf, 0)


def search_by_numba(call: Search) -> tuple[Tensor, Tensor]:
    """:func:`search` by numba kernels."""
    return search(call, use_numba=True)


class FilteredSearch:
    """The search of queries (N, D) among keys (M, D): float32 on the CPU, contiguous, :func:`group_size` above 0.

    Args:
        queries: (N, D).
        keys: (M, D).
        own: (N,), the key that is each query itself, and not found; None for none.
        key_mask: (M,) bool, or None.
        memory_budget: bytes of scores and candidates at a time; quantized rows and O(N k) come on top.
        use_numba: False does without, more slowly.
    """

    def __init__(
        self,
        queries: Tensor,
        keys: Tensor,
        own: Tensor | None,
        key_mask: Tensor | None,
        memory_budget: int,
        use_numba: bool,
    ) -> None:
        self.queries = queries
        self.keys = keys
        self.own = own
        self.hidden = None if key_mask is None or bool(key_mask.all()) else ~key_mask
        # A tile of scores takes two thirds of the budget, with its maxima, and lists of candidates the rest
        rows = min(max(SCORES // len(keys), 128), memory_budget // (7 * len(keys)))
        self.tile_rows = min(len(queries), max(1, rows))
        self.workspace: Tensor | None = None
        self.numba_quantize: ModuleType | None = None
        self.best_candidates: Callable[..., Tensor] = best_candidates
        if use_numba:
            self.numba_quantize, self.best_candidates = numba_file("quantize"), numba_file("filter").best_candidates

    def run(
        self,
        dtypes: Sequence[torch.dtype],
        similarity: Tensor,
        index: Tensor,
        prepared: QuantizedKeys | None = None,
    ) -> Sequence[torch.dtype]:
        """Writes similarity and index (N, k), by scores of each dtype in turn; the dtypes from the first useful one on.

        `prepared` are the keys in one of the dtypes, where they are known.
        """
        pending, useful = torch.arange(len(similarity)), dtypes
        for number, dtype in enumerate(dtypes):
            # The next dtype's product takes about half as long as that of float32
            patience = CANDIDATE * (1 if dtype == dtypes[-1] else 2)
            max_candidates = similarity.shape[1] + max(MIN_CANDIDATES, self.keys.numel() // patience)
            quantized = prepared if prepared is not None and prepared.rows.dtype == dtype else None
            quantized = quantized or quantize_keys(self.keys, dtype, self.numba_quantize)
            left = pending if quantized is None else self.filter(quantized, pending, similarity, index, max_candidates)
            if len(left) == len(pending) and dtype != dtypes[-1]:
                useful = dtypes[number + 1 :]
            pending = left
            if len(pending) == 0:
                break
        for rows in tiles(pending, self.tile_rows):
            similarity[rows], index[rows] = self._search_in_full(rows, similarity.shape[1])
        return useful

    def filter(
        self, keys: QuantizedKeys, pending: Tensor, similarity: Tensor, index: Tensor, max_candidates: int
    ) -> Tensor:
        """Answers `pending` queries where few enough keys are left, at most `max_candidates` on average; the others."""
        is_all = len(pending) == len(self.queries)
        queries = self.queries if is_all else self.queries[pending]
        rows, bounds = quantize_queries(queries, keys, self.numba_quantize)
        count, left = similarity.shape[1], []
        for start in range(0, len(pending), self.tile_rows):
            part = slice(start, start + self.tile_rows)
            of_part = pending[part]
            found = (similarity[part], index[part]) if is_all else (similarity[of_part], index[of_part])
            own = of_part[:0] if self.own is None else keys.inverse_permutation[self.own[of_part]]
            counts = self.best_candidates(
                self._scores(rows[part], keys),
                bounds.of(part),
                keys.permutation,
                own,
                queries[part],
                self.keys,
                *found,
                group_size(len(self.keys), count),
                FINE,
                max_candidates,
            )
            is_open = counts < 0
            is_futile = int(counts.abs().sum()) > max_candidates * len(counts) or bool(is_open.all())
            if is_futile:  # what follows is alike, most likely
                left.append(pending[start:])
                break
            left.append(of_part[is_open])
            if not is_all:
                similarity[of_part], index[of_part] = found
        return torch.cat(left)

    def _scores(self, rows: Tensor, keys: QuantizedKeys) -> Tensor:
        """Scores (n, M') of quantized queries, integers or the bits of bfloat16 numbers; the smallest for no key.

        As integers, bits of numbers not below zero are in the same order, and integers are compared several times as
        fast. (Which of the negative ones is larger is not asked.)
        """
        is_integer = rows.dtype == torch.int8
        scores = self._workspace(torch.int32 if is_integer else rows.dtype, len(rows), len(keys.rows))
        (torch._int_mm if is_integer else torch.mm)(rows, keys.rows.mT, out=scores)
        scores = scores if is_integer else scores.view(torch.int16)
        num_keys, lowest = len(self.keys), torch.iinfo(scores.dtype).min
        scores[:, num_keys:] = lowest
        if self.hidden is not None:
            scores.index_fill_(1, keys.inverse_permutation[:num_keys][self.hidden], lowest)
        return scores

    def _search_in_full(self, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The best keys of queries that quantized scores did not settle."""
        scores = self._workspace(torch.float32, len(rows), len(self.keys))
        torch.mm(self.queries[rows], self.keys.mT, out=scores)
        if self.hidden is not None:
            scores.masked_fill_(self.hidden, -torch.inf)
        if self.own is not None:
            scores.scatter_(1, self.own[rows, None], -torch.inf)
        return topk_by_groups(scores, count)

    def _workspace(self, dtype: torch.dtype, rows: int, width: int) -> Tensor:
        """Memory for scores, the same as before where it fits: the first touch of new memory is slow."""
        if self.workspace is None or self.workspace.dtype != dtype or self.workspace.shape[1] != width:
            self.workspace = torch.empty(self.tile_rows, width, dtype=dtype)
        return self.workspace[:rows]


def best_candidates(
    scores: Tensor,
    bounds: Bounds,
    permutation: Tensor,
    own: Tensor,
    queries: Tensor,
    keys: Tensor,
    similarity: Tensor,
    index: Tensor,
    group: int,
    fine: int,
    max_candidates: int,
) -> Tensor:
    """Writes the k largest inner products of queries (n, D) with keys (M, D), where scores (n, M') lead to them.

    Args:
        scores: int32, or int16 that are the bits of bfloat16 numbers; overwritten in part.
        bounds: of the scores.
        permutation: (M',), which key a column is.
        own: (n,), the column that no row finds; empty for none.
        queries: (n, D) float32.
        keys: (M, D) float32.
        similarity: (n, k), written.
        index: (n, k), written.
        group: columns in a group, whose maximum counts for the level T.
        fine: columns in a fine group, a divisor of `group`.
        max_candidates: of a query, beyond which it is left open.

    Returns:
        (n,), how many keys were left for each query; a negative number where the query is left open: `similarity` and
        `index` hold nothing of use there.
    """
    count, highest, lowest = similarity.shape[1], *(getattr(torch.iinfo(scores.dtype), end) for end in ("max", "min"))
    if len(own):
        scores.scatter_(1, own[:, None], lowest)
    maxima = scores.view(len(scores), fine, -1).amax(1)  # column c stands for c, c + M' / fine, c + 2 M' / fine, ...
    level = _kth_largest(maxima.view(len(scores), group // fine, -1).amax(1), count)
    number = level.double() if scores.dtype == torch.int32 else (1 - 2.0**-8) * level.view(torch.bfloat16).double()
    lower = _as_score(number - 2 * bounds.error[:, None], scores.dtype)
    lower = lower.masked_fill(level == lowest, highest)  # fewer groups with a key than there are neighbors
    counts, columns = _reaching(scores, maxima, lower, 2 * max_candidates)
    columns = permutation.index_select(0, columns)
    similarity[:], index[:] = _best_of_lists(_products(queries, keys, counts, columns), columns, counts, count)
    return torch.where(counts > 0, counts, -1)


def _reaching(scores: Tensor, maxima: Tensor, level: Tensor, max_groups: int) -> tuple[Tensor, Tensor]:
    """How many scores of each row reach its level, and their columns, row by row; none where groups are too many."""
    row, first = (maxima >= level).nonzero().unbind(1)
    is_crowded = torch.bincount(row, minlength=len(scores)) > max_groups
    if bool(is_crowded.any()):
        kept = ~is_crowded.index_select(0, row)
        row, first = row[kept], first[kept]
    reach = scores.view(len(scores), -1, maxima.shape[1])[row, :, first] >= level.index_select(0, row)  # (hits, FINE)
    hit, place = reach.nonzero().unbind(1)
    counts = torch.bincount(row.index_select(0, hit), minlength=len(scores))
    return counts, first.index_select(0, hit) + place * maxima.shape[1]


def _kth_largest(rows: Tensor, count: int) -> Tensor:
    """The `count`-th largest entry of each row of integers, (n, 1).

    By numpy, which sorts short rows of integers with vector instructions: an order of magnitude faster than torch.
    """
    place = rows.shape[1] - count
    return torch.from_numpy(np.partition(rows.numpy(), place, axis=1)[:, place : place + 1].copy())


def _as_score(lower: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest score that is no larger than `lower`, as integers are compared; the largest integer for none."""
    highest = torch.iinfo(dtype).max
    if dtype == torch.int32:
        return torch.where((lower > -(2.0**31)) & (lower < highest), lower.floor(), highest).to(dtype)
    # A bfloat16 score was rounded once more than its bound knows
    bits = ((1 - 2.0**-7) * lower).to(torch.bfloat16).view(torch.int16)
    return torch.where(lower >= 0, bits, highest)


def _best_of_lists(products: Tensor, columns: Tensor, counts: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest products of each row and their columns, from the lists of all rows in one."""
    width = max(count, int(counts.max()))
    is_there = torch.arange(width) < counts[:, None]
    padded = products.new_full(is_there.shape, -torch.inf).masked_scatter_(is_there, products)
    values, place = padded.topk(count)
    place += (counts.cumsum(0) - counts)[:, None]
    return values, columns[place.clamp_max_(len(columns) - 1)] if len(columns) else place


def _products(queries: Tensor, keys: Tensor, counts: Tensor, columns: Tensor) -> Tensor:
    """Inner products of queries (n, D) with the keys of each query's list, without gathering a key."""
    _accept_sparse_tensors()
    start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    values, shape = keys.new_zeros(len(columns)), (len(queries), len(keys))
    pattern = torch.sparse_csr_tensor(start, columns, values, shape, check_invariants=False)
    result: Tensor = torch.sparse.sampled_addmm(pattern, queries, keys.mT, beta=0.0).values()
    return result


@functools.cache
def _accept_sparse_tensors() -> None:
    """Torch says once a process that sparse matrices are in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 0], [], [], (1, 1), check_invariants=False)
