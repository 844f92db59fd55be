"""The columns that the filter left, scored in float32 and sorted, in Triton."""

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]
from torch import Tensor

from graphcorrect.ops.kernels.cuda.launching import launch
from graphcorrect.ops.kernels.cuda.packing import INT32_MAX, NOTHING, order_of, store_best

# Chosen on an H200 at D = 256: of a program, rows, and entries of their keys at a time
_ROWS, _ENTRIES = 1, 1024
WORD = tl.constexpr(32)  # columns, a bit each


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
        column = ((entry >> 32) * WORD).to(tl.int32) + _bits_in(lowest - 1)
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


def select(
    queries: Tensor,
    keys: Tensor,
    threshold: Tensor,
    words: Tensor,
    counts: Tensor,
    num_neighbors: int,
    *,
    exclude_self: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Similarity and index (B, N, k), and is_open (B, N), 1 where they are not known; arguments as of the kernel."""
    (batch, num_queries, width), device = queries.shape, queries.device
    splits = counts.shape[-1]
    slots = words.shape[-1] // splits
    similarity = threshold.new_empty(batch, num_queries, num_neighbors)
    index = torch.empty(batch, num_queries, num_neighbors, dtype=torch.int64, device=device)
    is_open = torch.empty(batch, num_queries, dtype=torch.int8, device=device)
    columns = torch.empty(batch, num_queries, slots, dtype=torch.int32, device=device)
    launch(
        _select_kernel,
        (triton.cdiv(batch * num_queries, _ROWS),),
        *(queries, keys, threshold, words, counts, columns, similarity, index, is_open),
        *(batch * num_queries, num_queries, keys.shape[1], width, num_neighbors),
        EXCLUDE_SELF=exclude_self,
        SPLITS=splits,
        SLOTS=slots,
        ROWS=_ROWS,
        BLOCK_D=max(8, _ENTRIES // slots),
        num_warps=1,
    )
    return similarity, index, is_open
