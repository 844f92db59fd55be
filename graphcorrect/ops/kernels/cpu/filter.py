"""The keys that quantized scores leave to each query, scored in float32, by numba.

The method is that of :mod:`graphcorrect.ops.kernels.cpu.filtered_search`. All that concerns a query is done while its
scores are in the nearest cache, and no list of candidates outlives its query.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from graphcorrect.ops.kernels.cpu._compile import inner, loop
from graphcorrect.ops.kernels.cpu.quantize import bfloat16_bits
from graphcorrect.ops.kernels.cpu.quantized import Bounds
from graphcorrect.ops.kernels.cpu.rows import dot

_CHUNK = 32  # queries of one thread at a time, which share a workspace
MAX_CANDIDATES = 1024  # keys left for one query, beyond which it is not settled


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
    """As :func:`graphcorrect.ops.kernels.cpu.filtered_search.best_candidates`."""
    counts, is_integer = torch.empty(len(scores), dtype=torch.int64), scores.dtype == torch.int32
    settings = (group, fine, max(max_candidates, MAX_CANDIDATES))
    _filter(scores, is_integer, *bounds, permutation, own, queries, keys, *settings, similarity, index, counts)
    return counts


@inner
def _maxima(row, maxima):  # type: ignore[no-untyped-def]
    """Of the entries c, c + n, c + 2 n, ... for each c of n."""
    count = len(maxima)
    for column in range(count):
        maxima[column] = row[column]
    for start in range(count, len(row), count):
        part = row[start : start + count]
        for column in range(count):
            maxima[column] = part[column] if part[column] > maxima[column] else maxima[column]


@inner
def _kth_largest(row, count):  # type: ignore[no-untyped-def]
    """By halving the interval that integers lie in: few passes over few entries."""
    least, most = row[0], row[0]
    for column in range(len(row)):
        least = row[column] if row[column] < least else least
        most = row[column] if row[column] > most else most
    low, high = np.int64(least), np.int64(most)
    while low < high:
        middle = low + (high - low + 1) // 2
        bound, reaching = row.dtype.type(middle), np.int32(0)
        for column in range(len(row)):
            reaching += np.int32(row[column] >= bound)
        if reaching >= count:
            low = middle
        else:
            high = middle - 1
    return low


@inner
def as_score(lower, is_integer, word):  # type: ignore[no-untyped-def]
    """The largest score that is no larger than `lower`, as integers are compared; the largest integer for none.

    `word` is a workspace for one float32 number.
    """
    if is_integer:
        limits = np.iinfo(np.int32)
        return np.int64(np.floor(lower)) if limits.min < lower < limits.max else np.int64(limits.max)
    if not lower >= 0:
        return np.int64(np.iinfo(np.int16).max)
    word[0] = np.float32((1 - 2.0**-7) * lower)  # a bfloat16 score was rounded once more than its bound knows
    return np.int64(bfloat16_bits(word.view(np.uint32)[0]))


@inner
def _as_number(level, is_integer, word):  # type: ignore[no-untyped-def]
    """What a score is at least, before a bfloat16 one was rounded; -inf for a negative one of those."""
    if is_integer:
        return np.float64(level)
    word.view(np.uint32)[0] = np.uint32(max(level, 0)) << np.uint32(16)
    return (1 - 2.0**-8) * np.float64(word[0]) if level >= 0 else -np.inf


@inner
def _reaching(row, starts, count, step, bound, columns):  # type: ignore[no-untyped-def]
    """How many of a row's entries s, s + step, s + 2 step, ... for `count` starts s reach a bound; and their columns.

    Those are written until `columns` is full. (No branch, since a processor cannot foresee which do.)
    """
    reaching, last = 0, len(columns) - 1
    for number in range(count):
        column = starts[number]
        while column < len(row):
            columns[min(reaching, last)] = column
            reaching += row[column] >= bound
            column += step
    return reaching


@inner
def _candidates(row, fine, coarse, bound, whole, groups, parts, columns):  # type: ignore[no-untyped-def]
    """The columns whose scores reach a bound, by way of the maxima of groups: how many; they are written."""
    count = _reaching(coarse, whole, 1, 1, bound, groups)
    count = _reaching(fine, groups, count, len(coarse), bound, parts)
    return _reaching(row, parts, count, len(fine), bound, columns)


@inner
def _four_dots(left, keys, chosen, start, result):  # type: ignore[no-untyped-def]
    first, second = keys[chosen[start]], keys[chosen[start + 1]]
    third, fourth = keys[chosen[start + 2]], keys[chosen[start + 3]]
    zero = left.dtype.type(0)
    a, b, c, d = zero, zero, zero, zero
    for place in range(len(left)):
        a += left[place] * first[place]
        b += left[place] * second[place]
        c += left[place] * third[place]
        d += left[place] * fourth[place]
    result[start], result[start + 1], result[start + 2], result[start + 3] = a, b, c, d


@inner
def _insert(values, keys, start, stop, similarity, index):  # type: ignore[no-untyped-def]
    """Keeps the largest of values and their keys, in falling order, beside the `start` ones that were seen before."""
    for number in range(start, stop):
        value, place = values[number], min(number, len(similarity) - 1)
        if number > place and not value > similarity[place]:
            continue
        while place > 0 and value > similarity[place - 1]:
            similarity[place], index[place] = similarity[place - 1], index[place - 1]
            place -= 1
        similarity[place], index[place] = value, keys[number]


@inner
def _partition(row, columns, start, stop, bound):  # type: ignore[no-untyped-def]
    """Moves those columns that reach a bound to the front; where they end."""
    end = start
    for number in range(start, stop):
        column, other = columns[number], columns[end]
        reaches = row[column] >= bound
        columns[end] = column if reaches else other
        columns[number] = other if reaches else column
        end += reaches
    return end


@inner
def _score(query, keys, permutation, columns, start, stop, exact, similarity, index):  # type: ignore[no-untyped-def]
    """Scores the keys of columns from one place to another, which become keys, and keeps the best."""
    for number in range(start, stop):
        columns[number] = permutation[columns[number]]
    number = start
    while number + 4 <= stop:
        _four_dots(query, keys, columns, number, exact)
        number += 4
    while number < stop:
        exact[number] = dot(query, keys[columns[number]])
        number += 1
    _insert(exact, columns, start, stop, similarity, index)


@loop
def _filter(  # type: ignore[no-untyped-def]
    scores,
    is_integer,
    unit,
    shift,
    error,
    permutation,
    own,
    queries,
    keys,
    group,
    fine,
    max_candidates,
    similarity,
    index,
    counts,
):
    (num_rows, num_keys), num_neighbors = scores.shape, similarity.shape[1]
    num_fine, num_coarse = num_keys // fine, num_keys // group
    of_type, lowest, highest = scores.dtype.type, np.iinfo(scores.dtype).min, np.iinfo(scores.dtype).max
    for chunk in numba.prange(-(-num_rows // _CHUNK)):
        fine_maxima, coarse_maxima = np.empty(num_fine, scores.dtype), np.empty(num_coarse, scores.dtype)
        whole, groups = np.zeros(1, np.int64), np.empty(num_coarse, np.int64)
        parts, columns = np.empty(num_fine, np.int64), np.empty(max_candidates + 1, np.int64)
        exact, word = np.empty(max_candidates + 1, np.float32), np.empty(1, np.float32)
        for row in range(chunk * _CHUNK, min(chunk * _CHUNK + _CHUNK, num_rows)):
            if len(own):
                scores[row, own[row]] = lowest
            _maxima(scores[row], fine_maxima)
            _maxima(fine_maxima, coarse_maxima)
            level, counts[row] = of_type(_kth_largest(coarse_maxima, num_neighbors)), -1
            if level == lowest:  # fewer groups with a key than there are neighbors
                continue
            row_scores = scores[row]
            lower = as_score(_as_number(level, is_integer, word) - 2 * error[row], is_integer, word)
            count = _candidates(row_scores, fine_maxima, coarse_maxima, of_type(lower), whole, groups, parts, columns)
            if count == 0 or count > max_candidates:
                counts[row] = -max(count, 1)
                continue
            best, keys_of = similarity[row], index[row]
            first = _partition(row_scores, columns, 0, count, level)
            _score(queries[row], keys, permutation, columns, 0, first, exact, best, keys_of)
            # The k-th best product so far bounds what is left more closely, since it has no error
            lower = as_score((best[-1] - shift[row]) / unit[row] - error[row], is_integer, word)
            last = _partition(row_scores, columns, first, count, of_type(lower)) if lower < highest else count
            _score(queries[row], keys, permutation, columns, first, last, exact, best, keys_of)
            counts[row] = last
