"""Search in Triton: tiles of scores are never written to memory.

Keys are filtered by float16 scores first (`topk_filter`). What that leaves open, a query with a hundred ties for
example, is searched here by float32 scores, on the device and without asking the host: a program holds a block of
queries and walks over the keys, tile by tile, with a list of the best keys so far for each query. A tile in which no
row beats the end of its list costs a row maximum and no more; otherwise the maxima of all rows move to their lists
together, as often as the row with most to move asks for. Ties go to the key of lower index.

These scores are three tensor-core products of operands split in two (tf32x3), which by itself moves a score of unit
rows by at most 3 * 2⁻²⁰, about as much as the rounding of a float32 sum.

Importing this file imports triton.
"""

import torch
from torch import Tensor

try:
    import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
    import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]
except ImportError as error:
    raise ImportError(
        'backend="triton" needs triton: pip install triton (torch for CUDA on Linux brings it)'
    ) from error

from graphcorrect.ops.kernels.cuda import topk_filter
from graphcorrect.ops.kernels.cuda.launching import launch
from graphcorrect.ops.kernels.cuda.packing import INT32_MAX, INT64_MAX, NOTHING, order_of, store_best
from graphcorrect.ops.search import Search
from graphcorrect.ops.unit_rows import compared_rows

MAX_NEIGHBORS = 128  # longer lists leave too few registers for a tile

_BLOCK_N, _BLOCK_M, _BLOCK_D = 64, 128, 32


@triton.jit  # type: ignore[untyped-decorator]
def _search_kernel(  # type: ignore[no-untyped-def]
    queries,  # (B, N, D)
    keys,  # (B, M, D)
    key_mask,  # (B, M) int8, or None
    todo,  # (B, N) int8, or None: rows to search; a block without any costs nothing
    similarity,  # (B, N, k) float32, written
    index,  # (B, N, k) int64, written
    num_queries,
    num_keys,
    width,
    count,  # k
    EXCLUDE_SELF: tl.constexpr,
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
    last = num_keys
    if todo is not None:
        searched = tl.load(todo + image * num_queries + row, mask=searched, other=0) != 0
        last = tl.where(tl.max(searched.to(tl.int32), 0) > 0, num_keys, 0)

    # Empty slots are above any entry of score -inf, so that none enters, and differ, so that one at a time is replaced
    slot = tl.arange(0, SLOTS)
    empty = (tl.full((SLOTS,), NOTHING, tl.int64) << 32) + (0xFFFFFFFF - slot.to(tl.int64))
    # Slots not in use hold an entry that nothing beats
    best = tl.zeros((BLOCK_N, SLOTS), tl.int64) + tl.where(slot < count, empty, INT64_MAX)[None, :]
    lowest = tl.min(best, 1)
    for start in range(0, last, BLOCK_M):
        column = start + tl.arange(0, BLOCK_M)
        found = column < last
        key_rows = keys + (image * num_keys + column)[None, :] * width + depth[:, None]
        scores = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
        for done in range(0, width, BLOCK_D):
            inside = depth < width - done
            query = tl.load(query_rows + done, mask=searched[:, None] & inside[None, :], other=0.0)
            key = tl.load(key_rows + done, mask=found[None, :] & inside[:, None], other=0.0)
            scores = tl.dot(query, key, scores, input_precision="tf32x3")

        if key_mask is not None:
            found = found & (tl.load(key_mask + image * num_keys + column, mask=found, other=0) != 0)
        allowed = searched[:, None] & found[None, :]
        if EXCLUDE_SELF:
            allowed = allowed & (row[:, None] != column[None, :])
        order = tl.where(allowed, order_of(scores), NOTHING)

        largest = tl.max(order, 1)
        enters = largest > (lowest >> 32).to(tl.int32)
        while tl.max(enters.to(tl.int32), 0) > 0:
            at = tl.min(tl.where(order == largest[:, None], column[None, :], INT32_MAX), 1)
            entry = (largest.to(tl.int64) << 32) + (at ^ INT32_MAX).to(tl.int64)
            best = tl.where(enters[:, None] & (best == lowest[:, None]), entry[:, None], best)
            lowest = tl.min(best, 1)
            order = tl.where(column[None, :] == at[:, None], NOTHING, order)
            largest = tl.max(order, 1)
            enters = largest > (lowest >> 32).to(tl.int32)

    # An empty slot has score -inf and column 0
    empty = (tl.full((SLOTS,), NOTHING, tl.int64) << 32) + INT32_MAX
    best = tl.where((slot < count)[None, :] & ((best >> 32) > NOTHING), best, empty[None, :])
    store_best(best, similarity, index, image * num_queries + row, searched, count, SLOTS)


_INTERPRETED = not isinstance(_search_kernel, triton.JITFunction)  # TRITON_INTERPRET=1: runs on the CPU, in numpy


def search(call: Search) -> tuple[Tensor, Tensor]:
    """On CUDA, float32 or half precision, in any layout, k at most 128; the similarity is float32.

    All images in one launch. Time O(B N M D), extra memory O(B N (D + k)), and up to 1024 maxima of groups of keys for
    a query unless `scoring` is "float32". A score of NaN counts as the largest, as in torch.
    """
    queries, keys, num_neighbors = call.queries, call.keys, call.num_neighbors
    _check_served(queries, num_neighbors)
    mask = None if call.key_mask is None else call.key_mask.contiguous().view(torch.int8)
    (batch, num_queries, width), todo = queries.shape, None
    if num_neighbors == 0 or batch * num_queries == 0:
        return call.answer()
    if call.scoring != "float32" and num_neighbors <= topk_filter.MAX_NEIGHBORS:
        similarity, index, todo, queries, keys = topk_filter.search(
            queries, keys, num_neighbors, normalize=call.normalize, exclude_self=call.exclude_self, key_mask=mask
        )
    else:
        queries = compared_rows(queries, call.normalize)
        keys = queries if keys is None else compared_rows(keys, call.normalize)
        similarity, index = call.answer()
    launch(
        _search_kernel,
        (batch * triton.cdiv(num_queries, _BLOCK_N),),
        *(queries, keys, mask, todo, similarity, index),
        *(num_queries, keys.shape[1], width, num_neighbors),
        EXCLUDE_SELF=call.exclude_self,
        SLOTS=max(2, triton.next_power_of_2(num_neighbors)),
        BLOCK_N=_BLOCK_N,
        BLOCK_M=_BLOCK_M,
        BLOCK_D=_BLOCK_D,
        num_warps=8,
        num_stages=3,
    )
    return similarity, index


def _check_served(queries: Tensor, num_neighbors: int) -> None:
    if queries.dtype == torch.float64:
        raise TypeError(
            f'expected `queries` in float32 or half precision for backend="triton", got {queries.dtype}; '
            'use backend="torch"'
        )
    if num_neighbors > MAX_NEIGHBORS:
        raise ValueError(
            f'expected `num_neighbors` of at most {MAX_NEIGHBORS} for backend="triton", got {num_neighbors}; '
            'use backend="torch"'
        )
    if queries.is_cuda and torch.cuda.get_device_capability(queries.device) < (8, 0):
        raise ValueError(
            f'expected a GPU of compute capability 8.0 or more for backend="triton", got {queries.device} with '
            f'{".".join(map(str, torch.cuda.get_device_capability(queries.device)))}; use backend="torch"'
        )
    if not (queries.is_cuda or _INTERPRETED):
        raise ValueError(
            f'expected `queries` on a CUDA device for backend="triton", got {queries.device}; use backend="torch", or '
            "start Python with TRITON_INTERPRET=1 to test the kernel on the CPU"
        )
