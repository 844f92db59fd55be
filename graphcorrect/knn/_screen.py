"""Exact float32 search on the CPU that sifts the keys by coarse scores first, and scores in float32 what is left.

Processors multiply 8-bit integers four times as fast as float32 numbers, and some bfloat16 twice as fast. So each query
scores all keys coarsely, with a bound b on the error that holds for every key. If the k largest coarse scores are at
least T, the k-th largest true score is at least T - b; a key among the true k largest has a true score no smaller, and
hence a coarse one of at least T - 2 b. The keys that reach it, a few dozen, are scored in float32, and the best k of
them are the answer: that of a float32 search, whatever the data. Data decide the time only: where similarities crowd
closer than b too many keys remain, and those queries are searched in float32 throughout.

T need not be the k-th largest score itself: the k-th largest maximum of groups of keys will do, and maxima over groups
are read off a tile at the speed of the cache. The same way leads to the keys that reach the threshold.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from graphcorrect._eager import may_loop
from graphcorrect.knn._rounded import Coarse, round_rows, tiles
from graphcorrect.knn._torch import GROUP, best_of_scores

FINE = 8  # keys whose maximum says whether to look at each of them
LEAST_GROUPS = 3  # groups of keys for each neighbor: fewer would put T far below the k-th largest score
MOST_CANDIDATES = 1024  # keys left for one query, beyond which it is searched in full
FEW_CANDIDATES = 32  # more than the k that are wanted, which are always worth their while
CANDIDATE = 2**13  # entries of a float32 product that take as long as one candidate
SCORES = 2**21  # at a time, or those of 128 queries


@functools.cache
def fast_dtypes() -> tuple[torch.dtype, ...]:
    """The dtypes whose matrices this processor multiplies faster than those of float32, the one to try first first."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
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


def group_size(num_keys: int, num_neighbors: int) -> int:
    """Keys in a group: a power of two up to 64, or 0 where there are too few keys for groups."""
    most = num_keys // (LEAST_GROUPS * num_neighbors) if num_neighbors else 0
    return 0 if most < FINE else min(64, 2 ** (most.bit_length() - 1))


def search(
    queries: Tensor,
    keys: Tensor,
    similarity: Tensor,
    index: Tensor,
    *,
    exclude_self: bool,
    key_mask: Tensor | None,
    memory_budget: int,
    dtypes: Sequence[torch.dtype],
) -> Sequence[torch.dtype]:
    """Finds the keys of largest inner product for queries (N, D) among keys (M, D): `similarity`, `index` (N, k).

    float32 on the CPU, contiguous, :func:`group_size` above 0; `key_mask` is (M,). `dtypes` are those of the coarse
    scores, tried in turn, the finer one last: int8, bfloat16. Extra memory: `memory_budget`, the rounded rows, and
    O(N k).

    Returns:
        The dtypes to try on an image like this one: without the first if it was too coarse.
    """
    hidden = None if key_mask is None else ~key_mask
    return _ImageSearch(queries, keys, exclude_self, hidden, memory_budget).run(dtypes, similarity, index)


class _ImageSearch:
    """The search of one image."""

    def __init__(
        self, queries: Tensor, keys: Tensor, exclude_self: bool, hidden: Tensor | None, memory_budget: int
    ) -> None:
        self.queries = queries
        self.keys = keys
        self.exclude_self = exclude_self
        self.hidden = hidden
        # A tile of scores takes two thirds of the budget, with its maxima, and lists of candidates the rest
        rows = min(max(SCORES // len(keys), 128), memory_budget // (7 * len(keys)))
        self.tile_rows = min(len(queries), max(1, rows))
        self.list_length = memory_budget // 128
        self.room: Tensor | None = None

    def run(self, dtypes: Sequence[torch.dtype], similarity: Tensor, index: Tensor) -> Sequence[torch.dtype]:
        """Writes similarity and index (N, k); the dtypes from the first on that was of use."""
        done, left, useful = 0, [], dtypes
        for number, dtype in enumerate(dtypes):
            is_last = number == len(dtypes) - 1
            settled, unsettled = self._sift(dtype, done, similarity, index, is_last=is_last)
            if settled == 0 and not is_last:
                useful = dtypes[number + 1 :]
            done = settled
            left.append(unsettled)
        left.append(torch.arange(done, len(similarity)))
        for rows in tiles(torch.cat(left), self.tile_rows):
            similarity[rows], index[rows] = self._search_in_full(rows, similarity.shape[1])
        return useful

    def _sift(
        self, dtype: torch.dtype, first: int, similarity: Tensor, index: Tensor, *, is_last: bool = True
    ) -> tuple[int, Tensor]:
        """Answers rows from `first` on by coarse scores; the row at which it no longer pays, and those left out."""
        num_queries, count = similarity.shape
        # The next dtype's product takes about half as long as that of float32
        most = count + max(FEW_CANDIDATES, self.keys.numel() // (CANDIDATE if is_last else 2 * CANDIDATE))
        nothing = torch.zeros(0, dtype=torch.int64)
        coarse = round_rows(self.queries, self.keys, dtype) if first < num_queries else None
        if coarse is None:
            return first, nothing
        group = group_size(len(self.keys), count)
        if may_loop(self.queries):
            return self._sift_by_loops(coarse, first, similarity, index, group, most)
        left, found, length = [nothing], [], 0
        for start in range(first, num_queries, self.tile_rows):
            stop = min(start + self.tile_rows, num_queries)
            scores = self._coarse_scores(coarse, start, stop)
            if self.exclude_self:
                scores.scatter_(1, coarse.place[start:stop, None], torch.iinfo(scores.dtype).min)
            sifted = candidates(scores, coarse.errors.slack[start:stop], count, group, most)
            if sifted is None:  # what follows is alike, most likely
                stop = start
            else:
                left.append(start + (sifted[0] == 0).nonzero()[:, 0])
                found.append((sifted[0], coarse.order.index_select(0, sifted[1])))
                length += len(sifted[1])
            if found and (sifted is None or stop == num_queries or length > self.list_length):
                counts, columns = (torch.cat(parts) for parts in zip(*found, strict=True))
                scores = products(self.queries[first:stop], self.keys, counts, columns)
                similarity[first:stop], index[first:stop] = best_of_lists(scores, columns, counts, count)
                first, found, length = stop, [], 0
            if sifted is None:
                break
        return first, torch.cat(left)

    def _sift_by_loops(
        self, coarse: Coarse, first: int, similarity: Tensor, index: Tensor, group: int, most: int
    ) -> tuple[int, Tensor]:
        """The same, a tile in one compiled loop."""
        from graphcorrect.knn import _numba_sift  # not above: it imports numba

        num_queries, count = similarity.shape
        left = [nothing := torch.zeros(0, dtype=torch.int64)]
        for start in range(first, num_queries, self.tile_rows):
            stop = min(start + self.tile_rows, num_queries)
            unsettled, num_seen = _numba_sift.best_of_sifted(
                self._coarse_scores(coarse, start, stop),
                coarse.errors.of(start, stop),
                coarse.order,
                coarse.place[start:stop] if self.exclude_self else nothing,
                self.queries[start:stop],
                self.keys,
                similarity[start:stop],
                index[start:stop],
                group=group,
                fine=FINE,
                most=MOST_CANDIDATES,
            )
            num_rows = stop - start
            if num_seen > most * num_rows or len(unsettled) == num_rows:  # what follows is alike, most likely
                return start, torch.cat(left)
            left.append(start + unsettled)
        return num_queries, torch.cat(left)

    def _room(self, dtype: torch.dtype, rows: int, width: int) -> Tensor:
        """Room for scores, the same as before where it fits: the first touch of new memory is slow."""
        if self.room is None or self.room.dtype != dtype or self.room.shape[1] != width:
            self.room = torch.empty(self.tile_rows, width, dtype=dtype)
        return self.room[:rows]

    def _coarse_scores(self, coarse: Coarse, start: int, stop: int) -> Tensor:
        """Coarse scores (rows, M'), integers or the bits of bfloat16 numbers; the smallest for keys that are none."""
        is_integer = coarse.queries.dtype == torch.int8
        scores = self._room(torch.int32 if is_integer else coarse.queries.dtype, stop - start, len(coarse.keys))
        multiply = torch._int_mm if is_integer else torch.mm
        multiply(coarse.queries[start:stop], coarse.keys.mT, out=scores)
        scores = scores if is_integer else scores.view(torch.int16)
        num_keys, least = len(self.keys), torch.iinfo(scores.dtype).min
        scores[:, num_keys:] = least
        if self.hidden is not None:
            scores.index_fill_(1, self.hidden[coarse.order[:num_keys]].nonzero()[:, 0], least)
        return scores

    def _search_in_full(self, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The best keys of queries that coarse scores did not settle."""
        missing = -len(self.keys) % GROUP
        scores = self._room(torch.float32, len(rows), len(self.keys) + missing)
        own = scores[:, : len(self.keys)]
        torch.mm(self.queries[rows], self.keys.mT, out=own)
        scores[:, len(self.keys) :] = -torch.inf
        if self.hidden is not None:
            own.masked_fill_(self.hidden, -torch.inf)
        if self.exclude_self:
            own.scatter_(1, rows[:, None], -torch.inf)
        return best_of_scores(scores, count)


def candidates(scores: Tensor, slack: Tensor, count: int, group: int, most: int) -> tuple[Tensor, Tensor] | None:
    """The columns of scores (rows, M') that may be among the `count` largest true ones of their row, row by row.

    Scores are int32, or int16 that are the bits of bfloat16 numbers: as integers those not below zero are in the same
    order, and in no group do they seem to have a larger maximum than they have, which is all that is asked of them.
    Integers are compared several times as fast.

    Returns:
        How many each row has, and the columns; none for a row with too few, or too many. None where rows have more
        than `most` on average.
    """
    num_rows, width = scores.shape
    fine = scores.view(num_rows, FINE, -1).amax(1)  # column c stands for c, c + M' / FINE, c + 2 M' / FINE, ...
    threshold = _lower(_kth_largest(fine.view(num_rows, group // FINE, -1).amax(1), count), slack[:, None])
    row, first = (fine >= threshold).nonzero().unbind(1)
    if len(row) > most * num_rows:
        return None
    reach = scores.view(num_rows, FINE, -1)[row, :, first] >= threshold.index_select(0, row)  # (hits, FINE)
    # Flags looked at eight at a time, as one number
    word = reach.view(torch.int64).nonzero()[:, 0]
    inner, place = reach.index_select(0, word).nonzero().unbind(1)
    hit = word.index_select(0, inner)
    row, column = row.index_select(0, hit), first.index_select(0, hit) + place * fine.shape[1]
    counts = torch.searchsorted(row, torch.arange(num_rows + 1)).diff()
    settled = (counts >= count) & (counts <= MOST_CANDIDATES)
    if not bool(settled.all()):
        column = column[settled[row]]
        counts = torch.where(settled, counts, 0)
    return None if len(column) > most * num_rows or len(column) == 0 else (counts, column)


def _kth_largest(rows: Tensor, count: int) -> Tensor:
    """The `count`-th largest entry of each row of integers, (rows, 1).

    By numpy, which sorts short rows of integers with vector instructions: an order of magnitude faster than torch.
    """
    place = rows.shape[1] - count
    return torch.from_numpy(np.partition(rows.numpy(), place, axis=1)[:, place : place + 1].copy())


def best_of_lists(scores: Tensor, columns: Tensor, counts: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of the scores of each row and their columns, from the lists of all rows in one."""
    width = max(count, int(counts.max()))
    row = torch.arange(len(counts)).repeat_interleave(counts)
    start = counts.cumsum(0) - counts
    padded = scores.new_full((len(counts), width), -torch.inf)
    padded.view(-1)[row * width + torch.arange(len(row)) - start.index_select(0, row)] = scores
    values, place = padded.topk(count)
    return values, columns[(start[:, None] + place).clamp_max_(max(0, len(columns) - 1))]


def products(queries: Tensor, keys: Tensor, counts: Tensor, columns: Tensor) -> Tensor:
    """Inner products of queries (N, D) with the keys of each query's list, without gathering a key."""
    _accept_sparse_tensors()
    start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    pattern = torch.sparse_csr_tensor(
        start, columns, keys.new_zeros(len(columns)), (len(queries), len(keys)), check_invariants=False
    )
    result: Tensor = torch.sparse.sampled_addmm(pattern, queries, keys.mT, beta=0.0).values()
    return result


@functools.cache
def _accept_sparse_tensors() -> None:
    """Torch says once a process that sparse matrices are in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 0], [], [], (1, 1), check_invariants=False)


def _lower(threshold: Tensor, slack: Tensor) -> Tensor:
    """T - 2 b, as coarse scores are given; above them all where b is infinite, or bits cannot be compared.

    Integers are exact. A bfloat16 score was rounded once more than the bound knows: T by 2**-8 at the most, and the
    scores below the result, which is a bfloat16 itself, were below it before they were rounded.
    """
    above = torch.iinfo(threshold.dtype).max
    if threshold.dtype == torch.int32:
        lower = threshold.double() - slack
        return torch.where(lower > -(2.0**31), lower.floor(), above).to(torch.int32)
    exact = threshold.view(torch.bfloat16).double()
    lower = (1 - 2.0**-7) * ((1 - 2.0**-8) * exact - slack)  # rounded down
    return lower.to(torch.bfloat16).view(torch.int16).masked_fill((threshold < 0) | ~(lower >= 0), above)
