"""Scores and columns packed into one number, for the Triton kernels to compare, sort and write.

An entry is one int64: above, the score as an int32 of the same order; below, INT32_MAX less the column. So comparing
entries compares scores first, then columns, of which the lower one wins.
"""

import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-untyped,import-not-found,unused-ignore]

INT32_MAX, INT64_MAX = tl.constexpr(0x7FFFFFFF), tl.constexpr(0x7FFFFFFFFFFFFFFF)
NOTHING = tl.constexpr(-2139095041)  # -inf as an int32 of the same order


@triton.jit
def order_of(scores):  # type: ignore[no-untyped-def]
    """float32 scores as int32 of the same order; NaN is the largest, as in torch."""
    bits = scores.to(tl.int32, bitcast=True)
    return tl.where(scores != scores, INT32_MAX, bits ^ ((bits >> 31) & INT32_MAX))


@triton.jit  # type: ignore[untyped-decorator]
def store_best(  # type: ignore[no-untyped-def]
    entries, similarity, index, row, is_row, count, SLOTS: tl.constexpr
):
    """Sorts the entries (ROWS, SLOTS) of each row, and writes score and column of the first `count`."""
    entries = tl.sort(entries, descending=True)
    order = (entries >> 32).to(tl.int32)
    score = (order ^ ((order >> 31) & INT32_MAX)).to(tl.float32, bitcast=True)
    slot = tl.arange(0, SLOTS)[None, :]
    place = row[:, None] * count + slot
    wanted = is_row[:, None] & (slot < count)
    tl.store(similarity + place, score, mask=wanted)
    tl.store(index + place, (entries & 0xFFFFFFFF) ^ INT32_MAX, mask=wanted)
