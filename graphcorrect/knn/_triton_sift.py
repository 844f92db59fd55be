"""Sifting by float16 scores in Triton: which few keys of each query can be among its best, and their float32 scores.

Tensor cores multiply float16 rows ten times as fast as a GPU multiplies float32 ones, and for unit rows such a score is
off by at most 2⁻¹⁰. Five kernels, none of which writes scores of all pairs:

1. `_round_kernel` makes unit rows, rounds them, and measures by how much each was rounded.
2. `_sample_kernel` takes the maxima of groups of keys: of each tile of scores and the one before, entry by entry.
3. `_threshold_kernel`: every maximum is the score of another key, so that the k-th largest bounds the k-th best score
   from below; a key whose coarse score lies under it by more than both can be off is none of the best.
4. `_collect_kernel` makes the scores again and notes which are over the threshold, in bits, 32 columns to a word.
5. `_select_kernel` scores these columns in float32 and sorts them.

So the answer is that of float32 scores for all keys. A query with more keys over its threshold than there is room for
(ties deeper than rounding can tell apart: flat images, zero rows) and one that is not finite are left to the caller.
"""

from typing import NamedTuple

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]
from torch import Tensor

from graphcorrect.knn._triton_entries import INT32_MAX, NOTHING, order_of, store_best

MOST_NEIGHBORS = 60

# Chosen on an H200 at D = 256: what the next larger or smaller tiles, and more or fewer warps and stages, do not beat
_QUERIES = 128  # of a tile of scores
_COLLECTED_KEYS = 64
_SELECTED_ROWS, _SELECTED_ENTRIES = 1, 1024  # of a program: rows, and entries of their keys at a time
_WHOLE, _PIECE = 256, 128  # entries of a row: up to so many stay on the chip, wider rows are read in pieces
_LEAST_KEYS, _MOST_SPLITS = 1024, 8
_WORD = tl.constexpr(32)
_TURN = tl.constexpr(79)  # 0.618 of 128: pixels one over the other fall into different groups

_LOWEST = tl.constexpr(-3.4e38)


@triton.jit
def _store_largest(place, values):  # type: ignore[no-untyped-def]
    """Raises the float32 at `place` to the largest of these, none of them negative; NaN is the largest of all."""
    bits = values.to(tl.int32, bitcast=True) & INT32_MAX
    tl.atomic_max(place, tl.max(bits, 0))


@triton.jit  # type: ignore[untyped-decorator]
def _round_kernel(  # type: ignore[no-untyped-def]
    rows,  # (B, N, D), of any floating dtype and layout
    largest,  # (B,) float32, the largest magnitude in each image; or None, for rows to be made unit rows
    exact,  # (B, N, D) float32, written: the rows that are compared
    rounded,  # (B, padded_rows, WIDTH) float16, written: rows times the image's scale, and zeros
    off,  # (B, N) float32, written: norm of what rounding took away, scaled
    size,  # (B, N) float32, written: norm, scaled
    most,  # (B, 2) int32, raised to the bits of the largest `off` and `size`
    num_rows,
    padded_rows,
    width,
    image_stride,
    row_stride,
    entry_stride,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
):
    blocks = padded_rows // ROWS
    image = (tl.program_id(0) // blocks).to(tl.int64)
    row = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS)
    is_row = row < num_rows
    depth = tl.arange(0, BLOCK_D)
    source = rows + image * image_stride + row.to(tl.int64)[:, None] * row_stride + depth[None, :] * entry_stride
    place = (image * num_rows + row)[:, None] * width + depth[None, :]
    top = tl.full((ROWS,), 1.0, tl.float32)
    norm = tl.full((ROWS,), 1.0, tl.float32)
    if largest is None:
        # By the largest entry first, so that no square overflows or vanishes
        top = tl.zeros((ROWS,), tl.float32)
        for done in range(0, WIDTH, BLOCK_D):
            inside = is_row[:, None] & (depth < width - done)[None, :]
            value = tl.load(source + done * entry_stride, mask=inside, other=0.0).to(tl.float32)
            top = tl.maximum(top, tl.max(tl.abs(value), 1))
        top = tl.where(top > 0, top, 1.0)
        squares = tl.zeros((ROWS,), tl.float32)
        for done in range(0, WIDTH, BLOCK_D):
            inside = is_row[:, None] & (depth < width - done)[None, :]
            value = tl.load(source + done * entry_stride, mask=inside, other=0.0).to(tl.float32) / top[:, None]
            squares += tl.sum(value * value, 1)
        norm = tl.where(squares == 0, 1.0, tl.sqrt(squares))
        scale = 8192.0
    else:
        # The power of two that brings the largest magnitude under 2¹⁴: nothing overflows, and little is subnormal
        exponent = (tl.load(largest + image).to(tl.int32, bitcast=True) >> 23) & 0xFF
        scale = (tl.minimum(267 - exponent, 254) << 23).to(tl.float32, bitcast=True)
    lost = tl.zeros((ROWS,), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for done in range(0, WIDTH, BLOCK_D):
        inside = is_row[:, None] & (depth < width - done)[None, :]
        value = tl.load(source + done * entry_stride, mask=inside, other=0.0).to(tl.float32)
        value = value / top[:, None] / norm[:, None]
        tl.store(exact + place + done, value, mask=inside)
        value = value * scale
        short = value.to(tl.float16)
        rest = value - short.to(tl.float32)
        lost += tl.sum(rest * rest, 1)
        total += tl.sum(value * value, 1)
        tl.store(rounded + (image * padded_rows + row)[:, None] * WIDTH + done + depth[None, :], short)
    lost, total = tl.sqrt(lost), tl.sqrt(total)
    tl.store(off + image * num_rows + row, lost, mask=is_row)
    tl.store(size + image * num_rows + row, total, mask=is_row)
    _store_largest(most + 2 * image, lost)
    _store_largest(most + 2 * image + 1, total)


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
    off,  # (B, N) float32
    size,  # (B, N) float32
    most,  # (B, 2) int32: bits of the largest `off` and `size` of an image's keys
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
    query_off = tl.load(off + row, mask=is_row, other=0.0)
    query_size = tl.load(size + row, mask=is_row, other=0.0) + query_off
    key_off = tl.load(most + 2 * image, mask=is_row, other=0).to(tl.float32, bitcast=True)
    key_size = tl.load(most + 2 * image + 1, mask=is_row, other=0).to(tl.float32, bitcast=True)
    slack = query_off * key_size + query_size * key_off + rounding * query_size * (key_size + key_off)
    lowest = tl.maximum(lowest - 2 * slack, _LOWEST)  # masked keys, at -inf, stay under it
    is_finite = slack < float("inf")  # false for NaN
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
    bit = (tl.full((_WORD,), 1, tl.int32) << tl.arange(0, _WORD))[None, None, :]
    held = tl.zeros((BLOCK_N,), tl.int32)
    for start in range(first, last, BLOCK_M):
        column = start + tl.arange(0, BLOCK_M)
        key_rows = keys + (image * padded_keys + column)[:, None] * WIDTH + depth[None, :]
        scores = _score_tile(query, query_rows, key_rows, WIDTH, BLOCK_N, BLOCK_M, BLOCK_D)
        is_over = scores >= least[:, None]
        if MASKED:
            is_over = is_over & _is_allowed(column, key_mask, image, num_keys)[None, :]
        hits = tl.sum(tl.where(tl.reshape(is_over, (BLOCK_N, BLOCK_M // _WORD, _WORD)), bit, 0), 2)
        has_hits = (hits != 0).to(tl.int32)
        slot = held[:, None] + tl.cumsum(has_hits, 1) - has_hits
        held += tl.sum(has_hits, 1)
        number = (tl.arange(0, BLOCK_M // _WORD) + start // _WORD).to(tl.int64)[None, :]
        entry = (number << 32) | (hits.to(tl.int64) & 0xFFFFFFFF)
        tl.store(words + segment[:, None] * SLOTS + slot, entry, mask=(hits != 0) & (slot < SLOTS))
    tl.store(counts + segment, held, mask=row < num_queries)


@triton.jit
def _bits_in(words):  # type: ignore[no-untyped-def]
    words = words - ((words >> 1) & 0x55555555)
    words = (words & 0x33333333) + ((words >> 2) & 0x33333333)
    words = (words + (words >> 4)) & 0x0F0F0F0F
    return (words * 0x01010101) >> 24


@triton.jit  # type: ignore[untyped-decorator]
def _select_kernel(  # type: ignore[no-untyped-def]
    queries,  # (B, N, D) float32
    keys,  # (B, M, D) float32
    threshold,  # (B, N) float32
    words,  # (B, N, SPLITS, SLOTS) int64
    counts,  # (B, N, SPLITS) int32
    columns,  # (B, N, SLOTS) int32, written: scratch
    similarity,  # (B, N, k) float32, written
    index,  # (B, N, k) int64, written
    is_open,  # (B, N) int8, written: 1 where the row is not answered
    num_rows,  # of all images
    num_queries,
    num_keys,
    width,
    count,
    EXCLUDE_SELF: tl.constexpr,
    SPLITS: tl.constexpr,
    SLOTS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    is_row = row < num_rows
    slot = tl.arange(0, SPLITS * SLOTS)[None, :]
    held = tl.load(counts + row[:, None] * SPLITS + slot // SLOTS, mask=is_row[:, None], other=0)
    taken = slot % SLOTS < held
    entry = tl.load(words + row[:, None] * (SPLITS * SLOTS) + slot, mask=taken, other=0)
    hits = (entry & 0xFFFFFFFF).to(tl.int32)
    in_word = _bits_in(hits)
    place = tl.cumsum(in_word, 1) - in_word
    found = tl.sum(in_word, 1)
    failed = (tl.max(held, 1) > SLOTS) | (found > SLOTS)
    failed = failed | (tl.load(threshold + row, mask=is_row, other=0.0) == float("inf"))
    tl.store(is_open + row, failed.to(tl.int8), mask=is_row)
    # The words give up their bits, all words one at a time; then each slot takes a column
    scratch = columns + row[:, None] * SLOTS
    for _ in range(tl.max(tl.max(in_word, 1), 0)):
        lowest = hits & -hits
        column = ((entry >> 32) * _WORD).to(tl.int32) + _bits_in(lowest - 1)
        tl.store(scratch + place, column, mask=(hits != 0) & (place < SLOTS))
        hits = hits & (hits - 1)
        place += 1
    tl.debug_barrier()
    slot = tl.arange(0, SLOTS)[None, :]
    taken = slot < found[:, None]
    column = tl.load(scratch + slot, mask=taken, other=0)
    if EXCLUDE_SELF:
        taken = taken & (column != (row % num_queries)[:, None])
    depth = tl.arange(0, BLOCK_D)
    key_rows = keys + ((row // num_queries * num_keys)[:, None] + column)[:, :, None] * width + depth[None, None, :]
    total = tl.zeros((ROWS, SLOTS), tl.float32)
    for done in range(0, width, BLOCK_D):
        inside = depth < width - done
        query_rows = queries + row[:, None] * width + done + depth[None, :]
        query = tl.load(query_rows, mask=is_row[:, None] & inside[None, :], other=0.0)
        key = tl.load(key_rows + done, mask=taken[:, :, None] & inside[None, None, :], other=0.0)
        total += tl.sum(query[:, None, :] * key, 2)
    order = tl.where(taken, order_of(total), NOTHING)
    entries = (order.to(tl.int64) << 32) + (tl.where(taken, column, 0) ^ INT32_MAX).to(tl.int64)
    store_best(entries, similarity, index, row, is_row, count, SLOTS)


class Sifted(NamedTuple):
    """Best keys as far as they are known, and the float32 rows that were compared."""

    similarity: Tensor  # (B, N, k)
    index: Tensor  # type: ignore[assignment]  # hides tuple.index; (B, N, k)
    is_open: Tensor  # (B, N) int8: 1 where the above is not known
    queries: Tensor  # (B, N, D)
    keys: Tensor  # (B, M, D)


class _Rounded(NamedTuple):
    exact: Tensor  # (B, N, D) float32
    rows: Tensor  # (B, padded rows, padded width) float16
    off: Tensor  # (B, N) float32
    size: Tensor  # (B, N) float32
    most: Tensor  # (B, 2) int32


def search(
    queries: Tensor,
    keys: Tensor | None,
    num_neighbors: int,
    *,
    normalize: bool,
    exclude_self: bool,
    key_mask: Tensor | None,
) -> Sifted:
    """As `knn._triton.search`, for an int8 mask, save for the rows that it leaves open."""
    (batch, num_queries, width), device = queries.shape, queries.device
    cores, is_large = _resources(device)
    whole, piece = (_WHOLE, _PIECE) if is_large else (64, 64)
    block_d = max(16, triton.next_power_of_2(width)) if width <= whole else piece
    block_n = _QUERIES if is_large else 64
    of_queries = _round(queries, block_d, normalize)
    of_keys = of_queries if keys is None else _round(keys, block_d, normalize)
    num_keys = of_keys.exact.shape[1]
    # Half the groups are room enough for the k best to fall into different ones
    slots = 64 if num_neighbors <= 24 else 128
    rows = (of_queries.rows, of_keys.rows, key_mask)
    sizes = (num_queries, num_keys, of_queries.rows.shape[1], of_keys.rows.shape[1])
    tile = {
        "MASKED": key_mask is not None or num_keys % slots != 0,
        "WIDTH": of_keys.rows.shape[2],
        "BLOCK_N": block_n,
        "BLOCK_D": block_d,
        "num_warps": block_n // 16,
        "enable_fp_fusion": True,
    }

    programs = batch * triton.cdiv(num_queries, block_n)
    splits = _num_splits(programs, num_keys, cores)
    keys_per_split = triton.cdiv(triton.cdiv(num_keys, splits), 128) * 128
    groups = splits * slots
    maxima = of_queries.off.new_empty(batch, num_queries, groups)
    stages = 192 // slots
    _sample_kernel[(programs, splits)](*rows, maxima, *sizes, keys_per_split, BLOCK_M=slots, num_stages=stages, **tile)
    threshold = torch.empty_like(of_queries.off)
    rows_each = max(1, 2048 // groups)
    _threshold_kernel[(triton.cdiv(batch * num_queries, rows_each),)](
        maxima,
        of_queries.off,
        of_queries.size,
        of_keys.most,
        threshold,
        batch * num_queries,
        num_queries,
        num_neighbors + int(exclude_self),  # a row finds itself too, and is left out at the end
        2 * (width + 8) * 2.0**-23,
        GROUPS=groups,
        ROWS=rows_each,
        enable_fp_fusion=True,
    )
    words = torch.empty(batch, num_queries, splits * slots, dtype=torch.int64, device=device)
    counts = torch.empty(batch, num_queries, splits, dtype=torch.int32, device=device)
    _collect_kernel[(programs, splits)](
        *rows,
        threshold,
        words,
        counts,
        *sizes,
        keys_per_split,
        SLOTS=slots,
        BLOCK_M=_COLLECTED_KEYS,
        num_stages=3,
        **tile,
    )
    similarity = maxima.new_empty(batch, num_queries, num_neighbors)
    index = torch.empty(batch, num_queries, num_neighbors, dtype=torch.int64, device=device)
    is_open = torch.empty(batch, num_queries, dtype=torch.int8, device=device)
    _select_kernel[(triton.cdiv(batch * num_queries, _SELECTED_ROWS),)](
        of_queries.exact,
        of_keys.exact,
        threshold,
        words,
        counts,
        torch.empty(batch, num_queries, slots, dtype=torch.int32, device=device),
        similarity,
        index,
        is_open,
        batch * num_queries,
        num_queries,
        num_keys,
        width,
        num_neighbors,
        EXCLUDE_SELF=exclude_self,
        SPLITS=splits,
        SLOTS=slots,
        ROWS=_SELECTED_ROWS,
        BLOCK_D=max(8, _SELECTED_ENTRIES // slots),
        num_warps=1,
        enable_fp_fusion=True,
    )
    return Sifted(similarity, index, is_open, of_queries.exact, of_keys.exact)


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
    while splits < _MOST_SPLITS and splits * programs <= cores and num_keys >= 2 * splits * _LEAST_KEYS:
        splits *= 2
    return splits


def _round(rows: Tensor, block_d: int, normalize: bool) -> _Rounded:
    batch, num_rows, width = rows.shape
    padded_rows, padded_width = triton.cdiv(num_rows, 128) * 128, max(1, triton.cdiv(width, block_d)) * block_d
    exact = torch.empty(batch, num_rows, width, dtype=torch.float32, device=rows.device)
    rounded = torch.empty(batch, padded_rows, padded_width, dtype=torch.float16, device=rows.device)
    off, size = exact.new_empty(batch, num_rows), exact.new_empty(batch, num_rows)
    most = torch.zeros(batch, 2, dtype=torch.int32, device=rows.device)
    largest = None
    if not normalize:
        values = rows if width else rows.new_zeros(batch, 1, 1)
        largest = torch.linalg.vector_norm(values, torch.inf, dim=(1, 2), dtype=torch.float32)
    # Neighboring entries of memory together, be they of a row or, as pixels of an image, of a column
    rows_each = 32 if rows.stride(-1) > 1 else min(128, max(1, 2048 // block_d))
    _round_kernel[(batch * padded_rows // rows_each,)](
        rows,
        largest,
        exact,
        rounded,
        off,
        size,
        most,
        num_rows,
        padded_rows,
        width,
        *rows.stride(),
        WIDTH=padded_width,
        BLOCK_D=block_d,
        ROWS=rows_each,
        enable_fp_fusion=True,
    )
    return _Rounded(exact, rounded, off, size, most)
