"""Search in one Triton kernel: a tile of scores is made, sifted and forgotten, and never written to memory.

A program holds a block of queries and walks over the keys, tile by tile, with a list of the best keys so far for each
query. A tile in which no row beats the end of its list costs a row maximum and no more; otherwise the maxima of all
rows move to their lists together, as often as the row with most to move asks for. `precision`, the scoring of tiles:

- "ieee" (default): float32 throughout, as the "torch" backend does; only scores closer than the rounding of a float32
  sum can change places. Ties go to the key of lower index.
- "tf32x3": float32 in three tensor-core products of operands split in two; by itself this moves a score of unit rows
  by at most 3 * 2⁻²⁰, about as much as the rounding of a float32 sum. Otherwise as "ieee".
- "tf32", "bf16": one tensor-core product of rounded rows picks k candidates and a margin, which are scored again in
  float32. An answer is certified if its k-th score is at least that of the worst candidate, before rescoring, plus
  :func:`_error_bound` (for unit rows at most 2⁻¹⁰ in tf32 and 2⁻⁷ in bf16, and the rounding of the sum): then no key
  left out can be better. A block of queries with an uncertified row is searched again with "ieee", on the device
  and without asking the host. So the answer is that of "ieee" up to float32 rounding, and data decide the time only:
  ties deeper than the margin (flat images, zero rows) pay for both searches.

Importing this file imports triton, so that `knn` does so only when the backend is asked for.
"""

import functools
from typing import Literal, get_args

import torch
from torch import Tensor

from graphcorrect import _checks

try:
    import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
    import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]
except ImportError as error:
    raise ImportError(
        'backend="triton" needs triton: pip install triton (torch for CUDA on Linux brings it)'
    ) from error

Precision = Literal["ieee", "tf32x3", "tf32", "bf16"]

MOST_NEIGHBORS = 128  # longer lists leave too few registers for a tile
MARGIN = 8  # candidates beyond k, at least, when rows are rounded

# Tile sizes and warps were chosen for sm_90 by what fits its registers without spilling; none has been timed.
_BLOCK_N, _BLOCK_M = 64, 128
_BLOCK_D = {"ieee": 8, "tf32x3": 32, "tf32": 32, "bf16": 64}  # "ieee" keeps its operands in registers
_LEAST_KEYS = 1024  # of a split, since each one fills its lists anew

# An entry of a list is one int64: above, the score as an int32 of the same order; below, INT32_MAX less the column. So
# comparing entries compares scores first, then columns, and no two entries are equal.
_INT32_MAX, _INT64_MAX = tl.constexpr(0x7FFFFFFF), tl.constexpr(0x7FFFFFFFFFFFFFFF)
_NOTHING = tl.constexpr(-2139095041)  # -inf as an int32 of the same order


@triton.jit  # type: ignore[untyped-decorator]
def _search_kernel(  # type: ignore[no-untyped-def]
    queries,  # (B, N, D)
    keys,  # (B, M, D)
    key_mask,  # (B, M) int8, or None
    todo,  # (B, N) int8, or None: rows to search; a block without any costs nothing
    best_keys,  # (B, N, splits, SLOTS) int64, written: each row's entries in no order
    num_queries,
    num_keys,
    width,
    columns_per_split,
    count,  # slots in use, of SLOTS
    EXCLUDE_SELF: tl.constexpr,
    PRECISION: tl.constexpr,
    SLOTS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    blocks = tl.cdiv(num_queries, BLOCK_N)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    row = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    depth = tl.arange(0, BLOCK_D)
    query_rows = queries + (image * num_queries + row)[:, None] * width + depth[None, :]
    searched = row < num_queries
    first = tl.program_id(1) * columns_per_split
    last = tl.minimum(first + columns_per_split, num_keys)
    if todo is not None:
        searched = tl.load(todo + image * num_queries + row, mask=searched, other=0) != 0
        last = tl.where(tl.max(searched.to(tl.int32), 0) > 0, last, first)

    # Empty slots are above any entry of score -inf, so that none enters, and differ, so that one at a time is replaced
    slot = tl.arange(0, SLOTS)
    empty = (tl.full((SLOTS,), _NOTHING, tl.int64) << 32) + (0xFFFFFFFF - slot.to(tl.int64))
    # Slots not in use hold an entry that nothing beats
    best = tl.zeros((BLOCK_N, SLOTS), tl.int64) + tl.where(slot < count, empty, _INT64_MAX)[None, :]
    lowest = tl.min(best, 1)
    for start in range(first, last, BLOCK_M):
        column = start + tl.arange(0, BLOCK_M)
        found = column < last
        key_rows = keys + (image * num_keys + column)[None, :] * width + depth[:, None]
        scores = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
        for done in range(0, width, BLOCK_D):
            inside = depth < width - done
            query = tl.load(query_rows + done, mask=searched[:, None] & inside[None, :], other=0.0)
            key = tl.load(key_rows + done, mask=found[None, :] & inside[:, None], other=0.0)
            scores = tl.dot(query, key, scores, input_precision=PRECISION)

        if key_mask is not None:
            found = found & (tl.load(key_mask + image * num_keys + column, mask=found, other=0) != 0)
        allowed = searched[:, None] & found[None, :]
        if EXCLUDE_SELF:
            allowed = allowed & (row[:, None] != column[None, :])
        bits = scores.to(tl.int32, bitcast=True)
        order = bits ^ ((bits >> 31) & _INT32_MAX)
        order = tl.where(scores != scores, _INT32_MAX, order)  # NaN is the largest, as in torch
        order = tl.where(allowed, order, _NOTHING)

        largest = tl.max(order, 1)
        enters = largest > (lowest >> 32).to(tl.int32)
        while tl.max(enters.to(tl.int32), 0) > 0:
            at = tl.min(tl.where(order == largest[:, None], column[None, :], _INT32_MAX), 1)
            entry = (largest.to(tl.int64) << 32) + (at ^ _INT32_MAX).to(tl.int64)
            best = tl.where(enters[:, None] & (best == lowest[:, None]), entry[:, None], best)
            lowest = tl.min(best, 1)
            order = tl.where(column[None, :] == at[:, None], _NOTHING, order)
            largest = tl.max(order, 1)
            enters = largest > (lowest >> 32).to(tl.int32)

    place = ((image * num_queries + row) * tl.num_programs(1) + tl.program_id(1))[:, None] * SLOTS + slot[None, :]
    best = tl.where((slot < count)[None, :], best, empty[None, :])
    tl.store(best_keys + place, best, mask=(row < num_queries)[:, None])


@triton.jit  # type: ignore[untyped-decorator]
def _rescore_kernel(  # type: ignore[no-untyped-def]
    queries,  # (B, N, D)
    keys,  # (B, M, D)
    index,  # (B, N, SLOTS) int64
    scores,  # (B, N, SLOTS) float32, written
    num_queries,
    num_keys,
    width,
    SLOTS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)  # of all images
    place = row * SLOTS + tl.arange(0, SLOTS)
    depth = tl.arange(0, BLOCK_D)
    key_rows = keys + (row // num_queries * num_keys + tl.load(index + place))[:, None] * width + depth[None, :]
    total = tl.zeros((SLOTS,), tl.float32)
    for done in range(0, width, BLOCK_D):
        inside = depth < width - done
        query = tl.load(queries + row * width + done + depth, mask=inside, other=0.0)
        key = tl.load(key_rows + done, mask=inside[None, :], other=0.0)
        total += tl.sum(query[None, :] * key, 1)
    tl.store(scores + place, total)


_INTERPRETED = not isinstance(_search_kernel, triton.JITFunction)  # TRITON_INTERPRET=1: runs on the CPU, in numpy


def search(
    queries: Tensor,
    keys: Tensor,
    num_neighbors: int,
    *,
    exclude_self: bool,
    key_mask: Tensor | None,
    precision: Precision = "ieee",
) -> tuple[Tensor, Tensor]:
    """Finds the keys of largest inner product for queries (B, N, D) among keys (B, M, D): similarity, index (B, N, k).

    float32 on CUDA, k at most 128; one launch for all images. Time O(B N M D), extra memory O(B N k), and copies of
    the rows for "tf32" and "bf16". A score of NaN counts as the largest, as in torch.
    """
    _checks.one_of("precision", precision, get_args(Precision))
    _check_served(queries, num_neighbors)
    if num_neighbors == 0 or queries.shape[0] * queries.shape[1] == 0:
        shape = (*queries.shape[:2], num_neighbors)
        return queries.new_empty(shape), torch.empty(shape, dtype=torch.int64, device=queries.device)
    queries, keys = queries.contiguous(), keys.contiguous()
    mask = None if key_mask is None else key_mask.contiguous().view(torch.int8)
    with torch.cuda.device_of(queries):  # type: ignore[no-untyped-call]  # triton launches on the current device
        if precision in ("ieee", "tf32x3"):
            entries = _best_entries(queries, keys, num_neighbors, exclude_self, mask, precision)
            return _unpack(entries.topk(num_neighbors).values)

        rounded, rounded_keys = _rounded(queries, precision), _rounded(keys, precision)
        count = triton.next_power_of_2(num_neighbors + MARGIN)  # the slots that there are
        entries = _best_entries(rounded, rounded_keys, count, exclude_self, mask, precision)
        estimate, candidates = _unpack(entries)
        exact = _rescore(queries, keys, candidates).masked_fill(estimate == -torch.inf, -torch.inf)
        similarity, place = exact.topk(num_neighbors)
        index = candidates.gather(-1, place)
        # A list that is not full has left no key out: its worst estimate is -inf. NaN certifies nothing.
        left_out = estimate.amin(-1) + _error_bound(queries, keys, rounded, rounded_keys)
        todo = ~(similarity[..., -1] >= left_out)
        entries = _best_entries(queries, keys, num_neighbors, exclude_self, mask, "ieee", todo.view(torch.int8))
        again = _unpack(entries.topk(num_neighbors).values)
        return torch.where(todo[..., None], again[0], similarity), torch.where(todo[..., None], again[1], index)


def _check_served(queries: Tensor, num_neighbors: int) -> None:
    if queries.dtype != torch.float32:
        raise TypeError(
            f'expected `queries` in float32 or half precision for backend="triton", got {queries.dtype}; '
            'use backend="torch"'
        )
    if num_neighbors > MOST_NEIGHBORS:
        raise ValueError(
            f'expected `num_neighbors` of at most {MOST_NEIGHBORS} for backend="triton", got {num_neighbors}; '
            'use backend="torch"'
        )
    if not (queries.is_cuda or _INTERPRETED):
        raise ValueError(
            f'expected `queries` on a CUDA device for backend="triton", got {queries.device}; use backend="torch", or '
            "start Python with TRITON_INTERPRET=1 to test the kernel on the CPU"
        )


def _best_entries(
    queries: Tensor,
    keys: Tensor,
    count: int,
    exclude_self: bool,
    key_mask: Tensor | None,
    precision: Precision,
    todo: Tensor | None = None,
) -> Tensor:
    """The best `count` entries of each query, or of those in `todo`, in no order, and empty ones to a power of two."""
    (batch, num_queries, width), num_keys = queries.shape, keys.shape[1]
    slots = triton.next_power_of_2(count)
    programs = batch * triton.cdiv(num_queries, _BLOCK_N)
    # Few queries leave most of a GPU idle, unless several programs share the keys of a block
    cores = torch.cuda.get_device_properties(queries.device).multi_processor_count if queries.is_cuda else 4
    splits = max(1, min(2 * cores // programs, num_keys // _LEAST_KEYS))
    keys_per_split = triton.cdiv(triton.cdiv(num_keys, splits), _BLOCK_M) * _BLOCK_M
    splits = triton.cdiv(num_keys, keys_per_split)
    entries = torch.empty(batch, num_queries, splits * slots, dtype=torch.int64, device=queries.device)
    _search_kernel[(programs, splits)](
        queries,
        keys,
        key_mask,
        todo,
        entries,
        num_queries,
        num_keys,
        width,
        keys_per_split,
        count,
        EXCLUDE_SELF=exclude_self,
        PRECISION="ieee" if precision == "bf16" else precision,  # bf16 operands know but one
        SLOTS=slots,
        BLOCK_N=_BLOCK_N,
        BLOCK_M=_BLOCK_M,
        BLOCK_D=_BLOCK_D[precision],
        num_warps=4 if precision in ("tf32", "bf16") and slots <= 32 else 8,
        num_stages=3,
        enable_fp_fusion=True,  # said, since triton 3.9 warns where it is not
    )
    return entries.topk(slots, sorted=False).values if splits > 1 else entries


def _unpack(entries: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and columns of entries; -inf and 0 where a slot is empty."""
    order = entries >> 32
    scores = (order ^ ((order >> 31) & 0x7FFFFFFF)).to(torch.int32).view(torch.float32)
    columns = 0x7FFFFFFF - (entries & 0xFFFFFFFF)
    return scores, columns.masked_fill(scores == -torch.inf, 0)


def _rescore(queries: Tensor, keys: Tensor, index: Tensor) -> Tensor:
    """float32 inner products of queries (B, N, D) with the keys at `index` (B, N, C), C a power of two."""
    (batch, num_queries, width), slots = queries.shape, index.shape[2]
    scores = queries.new_empty(index.shape)
    sizes = {"SLOTS": slots, "BLOCK_D": 4096 // slots}
    grid = (batch * num_queries,)
    _rescore_kernel[grid](
        queries, keys, index, scores, num_queries, keys.shape[1], width, **sizes, enable_fp_fusion=True
    )
    return scores


def _rounded(rows: Tensor, precision: Precision) -> Tensor:
    """Rows rounded to nearest: to bfloat16, or to tf32's 11 bits (a tensor core would cut them off)."""
    if precision == "bf16":
        rounded = rows.bfloat16()
        return rounded.float() if _INTERPRETED else rounded  # the interpreter's dot takes bfloat16 for integers
    return ((rows.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def _error_bound(queries: Tensor, keys: Tensor, rounded_queries: Tensor, rounded_keys: Tensor) -> Tensor:
    """How far a rounded score of each query (B, N) can be from its float32 score, float64.

    |q·k - q'·k'| <= |q - q'| |k| + |q'| |k - k'|, with the largest norms of the image's keys; and each of the two sums
    rounds by at most D 2⁻²³ of the norms' product, whatever its order, also where a tensor core cuts off.
    """
    norm = functools.partial(torch.linalg.vector_norm, dim=-1, dtype=torch.float64)  # float32 squares may vanish
    off, key_off = norm(queries - rounded_queries), norm(keys - rounded_keys).amax(-1, keepdim=True)
    size, key_size = norm(queries) + off, norm(keys).amax(-1, keepdim=True) + key_off
    bound: Tensor = off * key_size + size * key_off + 2 * queries.shape[-1] * 2.0**-23 * size * key_size
    return bound
