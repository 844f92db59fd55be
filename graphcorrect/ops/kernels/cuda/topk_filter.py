"""A filter by float16 scores in Triton: which few keys of each query can be among its best, and their float32 scores.

Tensor cores multiply float16 rows ten times as fast as a GPU multiplies float32 ones, and for unit rows such a score is
off by at most 2⁻¹⁰. Five kernels, none of which writes scores of all pairs:

1. `_quantize_kernel` makes unit rows, rounds them, and measures by how much each was rounded.
2. `_sample_kernel` takes the maxima of groups of keys: of each tile of scores and the one before, entry by entry.
3. `_threshold_kernel`: every maximum is the score of another key, so that the k-th largest bounds the k-th best score
   from below; a key whose quantized score lies under it by more than both can be off is none of the best.
4. `_collect_kernel` makes the scores again and notes which are over the threshold, in bits, 32 columns to a word.
5. `_select_kernel` scores these columns in float32 and sorts them.

So the answer is that of float32 scores for all keys. A query with more keys over its threshold than there are slots
(ties deeper than rounding can tell apart: flat images, zero rows) and one that is not finite are left to the caller.
"""

from typing import NamedTuple

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]
from torch import Tensor

from graphcorrect.ops.kernels.cuda.launching import launch
from graphcorrect.ops.kernels.cuda.quantize import quantize_rows
from graphcorrect.ops.kernels.cuda.rescore import WORD, select

MAX_NEIGHBORS = 60

# Chosen on an H200 at D = 256: what the next larger or smaller tiles, and more or fewer warps and stages, do not beat
_QUERIES = 128  # of a tile of scores
_COLLECTED_KEYS = 64
_WHOLE, _PIECE = 256, 128  # entries of a row: up to so many stay on the chip, wider rows are read in pieces
_MIN_KEYS, _MAX_SPLITS = 1024, 8
_TURN = tl.constexpr(79)  # 0.618 of 128: pixels one over the other fall into different groups
_LOWEST = tl.constexpr(-3.4e38)


@triton.jit  # type: ignore[untyped-decorator]
def _score_tile(  # type: ignore[no-untyped-def]
    query,
    query_rows,
    key_rows,
    WIDTH: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Products of queries, in `query` where the whole row is, with the keys at `key_rows` (BLOCK_M, BLOCK_D)."""
    if WIDTH == BLOCK_D:
        scores = tl.dot(query, tl.trans(tl.load(key_rows)))
    else:
        scores = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
        for done in range(0, WIDTH, BLOCK_D):
            scores = tl.dot(tl.load(query_rows + done), tl.trans(tl.load(key_rows + done)), scores)
    return scores


@triton.jit
def _is_allowed(column, key_mask, image, num_keys):  # type: ignore[no-untyped-def]
    allowed = column < num_keys
    if key_mask is not None:
        allowed = allowed & (tl.load(key_mask + image * num_keys + column, mask=allowed, other=0) != 0)
    return allowed


@triton.jit  # type: ignore[untyped-decorator]
def _sample_kernel(  # type: ignore[no-untyped-def]
    queries,  # (B, padded_queries, WIDTH) float16
    keys,  # (B, padded_keys, WIDTH) float16
    key_mask,  # (B, M) int8, or None
    maxima,  # (B, N, splits, BLOCK_M) float32, written: of groups of keys
    num_queries,
    num_keys,
    padded_queries,
    padded_keys,
    keys_per_split,
    MASKED: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    blocks = tl.cdiv(num_queries, BLOCK_N)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    row = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    depth = tl.arange(0, BLOCK_D)
    lane = tl.arange(0, BLOCK_M)
    query_rows = queries + (image * padded_queries + row)[:, None] * WIDTH + depth[None, :]
    query = tl.load(query_rows)
    first = tl.program_id(1) * keys_per_split
    last = tl.minimum(first + keys_per_split, num_keys)
    largest = tl.full((BLOCK_N, BLOCK_M), -float("inf"), tl.float32)
    for start in range(first, last, BLOCK_M):
        column = start + (lane + start // BLOCK_M * _TURN) % BLOCK_M
        key_rows = keys + (image * padded_keys + column)[:, None] * WIDTH + depth[None, :]
        scores = _score_tile(query, query_rows, key_rows, WIDTH, BLOCK_N, BLOCK_M, BLOCK_D)
        if MASKED:
            scores = tl.where(_is_allowed(column, key_mask, image, num_keys)[None, :], scores, -float("inf"))
        largest = tl.maximum(largest, scores)
    place = ((image * num_queries + row) * tl.num_programs(1) + tl.program_id(1))[:, None] * BLOCK_M + lane[None, :]
    tl.store(maxima + place, largest, mask=(row < num_queries)[:, None])


@triton.jit  # type: ignore[untyped-decorator]
def _threshold_kernel(  # type: ignore[no-untyped-def]
    maxima,  # (B, N, GROUPS) float32
    error,  # (B, N) float32
    norm,  # (B, N) float32
    largest_of,  # (B, 2) int32: bits of the largest `error` and `norm` of an image's keys
    threshold,  # (B, N) float32, written; inf where none can be trusted
    num_rows,  # of all images
    num_queries,
    wanted,  # keys that must lie at or over the threshold
    rounding,  # of the two sums, relative to the norms
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    is_row = row < num_rows
    place = row[:, None] * GROUPS + tl.arange(0, GROUPS)[None, :]
    values = tl.load(maxima + place, mask=is_row[:, None], other=0.0)
    passed = tl.zeros((ROWS,), tl.int32)
    lowest = tl.zeros((ROWS,), tl.float32)
    for _ in range(wanted):
        largest = tl.max(values, 1)
        lowest = tl.where(passed < wanted, largest, lowest)
        is_largest = values == largest[:, None]
        passed += tl.sum(is_largest.to(tl.int32), 1)
        values = tl.where(is_largest, -float("inf"), values)
    # |q·k - q'·k'| <= |q - q'| |k| + |q'| |k - k'|, with the largest norms of the keys; and the sums round
    image = row // num_queries
    query_error = tl.load(error + row, mask=is_row, other=0.0)
    query_norm = tl.load(norm + row, mask=is_row, other=0.0) + query_error
    key_error = tl.load(largest_of + 2 * image, mask=is_row, other=0).to(tl.float32, bitcast=True)
    key_norm = tl.load(largest_of + 2 * image + 1, mask=is_row, other=0).to(tl.float32, bitcast=True)
    bound = query_error * key_norm + query_norm * key_error + rounding * query_norm * (key_norm + key_error)
    lowest = tl.maximum(lowest - 2 * bound, _LOWEST)  # masked keys, at -inf, stay under it
    is_finite = bound < float("inf")  # false for NaN
    tl.store(threshold + row, tl.where(is_finite, lowest, float("inf")), mask=is_row)


@triton.jit  # type: ignore[untyped-decorator]
def _collect_kernel(  # type: ignore[no-untyped-def]
    queries,  # (B, padded_queries, WIDTH) float16
    keys,  # (B, padded_keys, WIDTH) float16
    key_mask,  # (B, M) int8, or None
    threshold,  # (B, N) float32
    words,  # (B, N, splits, SLOTS) int64, written: above, the number of a word of columns; below, a bit for each hit
    counts,  # (B, N, splits) int32, written: words with hits, which can be more than there are slots
    num_queries,
    num_keys,
    padded_queries,
    padded_keys,
    keys_per_split,
    MASKED: tl.constexpr,
    WIDTH: tl.constexpr,
    SLOTS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    blocks = tl.cdiv(num_queries, BLOCK_N)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    row = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    depth = tl.arange(0, BLOCK_D)
    query_rows = queries + (image * padded_queries + row)[:, None] * WIDTH + depth[None, :]
    query = tl.load(query_rows)
    least = tl.load(threshold + image * num_queries + row, mask=row < num_queries, other=float("inf"))
    first = tl.program_id(1) * keys_per_split
    last = tl.minimum(first + keys_per_split, num_keys)
    segment = (image * num_queries + row) * tl.num_programs(1) + tl.program_id(1)
    bit = (tl.full((WORD,), 1, tl.int32) << tl.arange(0, WORD))[None, None, :]
    held = tl.zeros((BLOCK_N,), tl.int32)
    for start in range(first, last, BLOCK_M):
        column = start + tl.arange(0, BLOCK_M)
        key_rows = keys + (image * padded_keys + column)[:, None] * WIDTH + depth[None, :]
        scores = _score_tile(query, query_rows, key_rows, WIDTH, BLOCK_N, BLOCK_M, BLOCK_D)
        is_over = scores >= least[:, None]
        if MASKED:
            is_over = is_over & _is_allowed(column, key_mask, image, num_keys)[None, :]
        hits = tl.sum(tl.where(tl.reshape(is_over, (BLOCK_N, BLOCK_M // WORD, WORD)), bit, 0), 2)
        has_hits = (hits != 0).to(tl.int32)
        slot = held[:, None] + tl.cumsum(has_hits, 1) - has_hits
        held += tl.sum(has_hits, 1)
        number = (tl.arange(0, BLOCK_M // WORD) + start // WORD).to(tl.int64)[None, :]
        entry = (number << 32) | (hits.to(tl.int64) & 0xFFFFFFFF)
        tl.store(words + segment[:, None] * SLOTS + slot, entry, mask=(hits != 0) & (slot < SLOTS))
    tl.store(counts + segment, held, mask=row < num_queries)


class Filtered(NamedTuple):
    """Best keys as far as they are known, and the float32 rows that were compared."""

    similarity: Tensor  # (B, N, k)
    index: Tensor  # type: ignore[assignment]  # hides tuple.index; (B, N, k)
    is_open: Tensor  # (B, N) int8: 1 where the above is not known
    queries: Tensor  # (B, N, D)
    keys: Tensor  # (B, M, D)


def search(
    queries: Tensor,
    keys: Tensor | None,
    num_neighbors: int,
    *,
    normalize: bool,
    exclude_self: bool,
    key_mask: Tensor | None,
) -> Filtered:
    """As `topk.search`, for an int8 mask, save for the rows that it leaves open."""
    (batch, num_queries, width), device = queries.shape, queries.device
    cores, is_large = _resources(device)
    whole, piece = (_WHOLE, _PIECE) if is_large else (64, 64)
    block_d = max(16, triton.next_power_of_2(width)) if width <= whole else piece
    block_n = _QUERIES if is_large else 64
    of_queries = quantize_rows(queries, block_d, normalize)
    of_keys = of_queries if keys is None else quantize_rows(keys, block_d, normalize)
    num_keys = of_keys.exact.shape[1]
    # Half the groups are enough for the k best to fall into different ones
    slots = 64 if num_neighbors <= 24 else 128
    rows = (of_queries.rows, of_keys.rows, key_mask)
    sizes = (num_queries, num_keys, of_queries.rows.shape[1], of_keys.rows.shape[1])
    tile = {
        "MASKED": key_mask is not None or num_keys % slots != 0,
        "WIDTH": of_keys.rows.shape[2],
        "BLOCK_N": block_n,
        "BLOCK_D": block_d,
        "num_warps": block_n // 16,
    }

    programs = batch * triton.cdiv(num_queries, block_n)
    splits = _num_splits(programs, num_keys, cores)
    keys_per_split = triton.cdiv(triton.cdiv(num_keys, splits), 128) * 128
    groups = splits * slots
    maxima = of_queries.error.new_empty(batch, num_queries, groups)
    stages = 192 // slots
    sampled = *rows, maxima, *sizes, keys_per_split
    launch(_sample_kernel, (programs, splits), *sampled, BLOCK_M=slots, num_stages=stages, **tile)
    threshold = torch.empty_like(of_queries.error)
    rows_each = max(1, 2048 // groups)
    launch(
        _threshold_kernel,
        (triton.cdiv(batch * num_queries, rows_each),),
        *(maxima, of_queries.error, of_queries.norm, of_keys.largest, threshold),
        *(batch * num_queries, num_queries),
        num_neighbors + int(exclude_self),  # a row finds itself too, and is left out at the end
        2 * (width + 8) * 2.0**-23,
        GROUPS=groups,
        ROWS=rows_each,
    )
    words = torch.empty(batch, num_queries, splits * slots, dtype=torch.int64, device=device)
    counts = torch.empty(batch, num_queries, splits, dtype=torch.int32, device=device)
    launch(
        _collect_kernel,
        (programs, splits),
        *(*rows, threshold, words, counts, *sizes, keys_per_split),
        SLOTS=slots,
        BLOCK_M=_COLLECTED_KEYS,
        num_stages=3,
        **tile,
    )
    found = select(of_queries.exact, of_keys.exact, threshold, words, counts, num_neighbors, exclude_self=exclude_self)
    return Filtered(*found, of_queries.exact, of_keys.exact)


def _resources(device: torch.device) -> tuple[int, bool]:
    """Multiprocessors, and whether each has memory for the larger tiles."""
    if device.type != "cuda":
        return 4, True  # the interpreter
    capability = torch.cuda.get_device_capability(device)
    is_large = capability in ((8, 0), (8, 7)) or 9 <= capability[0] < 12  # 160 KiB; the others have 99 KiB a block
    return torch.cuda.get_device_properties(device).multi_processor_count, is_large


def _num_splits(programs: int, num_keys: int, cores: int) -> int:
    """How many programs share the keys of a block of queries, a power of two: few queries leave most of a GPU idle."""
    splits = 1
    while splits < _MAX_SPLITS and splits * programs <= cores and num_keys >= 2 * splits * _MIN_KEYS:
        splits *= 2
    return splits
