"""Sifting keys by coarse scores, and scoring in float32 what is left, in one loop that numba compiles.

All that concerns a query is done while its scores are in the nearest cache, and no list of candidates is kept. The
method is that of :mod:`graphcorrect.knn._screen`, which imports this file, and with it numba, where
:func:`graphcorrect._eager.may_loop` allows; and one step more. The keys whose coarse scores reach T are scored first,
k of them or more. The k-th best of their true scores, t, is a bound without an error on one side: a key that is better
has a coarse score of at least t - b, where T - 2 b would have to do without t.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from graphcorrect.knn._numba_round import bfloat16_bits
from graphcorrect.knn._rounded import Errors
from graphcorrect.ops.kernels.cpu._compile import inner, loop
from graphcorrect.ops.kernels.cpu.rows import dot

_CHUNK = 32  # queries of one thread at a time, with room of their own


def best_of_sifted(
    scores: Tensor,
    errors: Errors,
    order: Tensor,
    own: Tensor,
    queries: Tensor,
    keys: Tensor,
    similarity: Tensor,
    index: Tensor,
    *,
    group: int,
    fine: int,
    most: int,
) -> tuple[Tensor, int]:
    """Writes the k largest inner products of queries (rows, D) with the keys (M, D) that their scores leave.

    `scores` (rows, M') are integers or the bits of bfloat16 numbers, with their `errors`. `order` (M',) says which key
    a column is, and no row finds the column `own` (rows,), which may be empty instead. Maxima are taken of groups of
    `group` keys, and of `fine`, a divisor of it.

    Returns:
        The rows (R',) that are left, since less than k keys reach their threshold, or more than `most`: `similarity`
        and `index` (rows, k) hold nothing of use there. And how many keys were looked at in all.
    """
    counts, seen = torch.empty(len(scores), dtype=torch.int64), torch.empty(2, dtype=torch.int64)
    is_integer = scores.dtype == torch.int32
    _sift(scores, is_integer, *errors, order, own, queries, keys, group, fine, most, similarity, index, counts, seen)
    num_seen, num_left = seen.tolist()
    left = ((counts < similarity.shape[1]) | (counts > most)).nonzero()[:, 0] if num_left else counts[:0]
    return left, num_seen


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
def _lower(threshold, slack, is_integer, number):  # type: ignore[no-untyped-def]
    """T - 2 b, as in `_screen`; `number` is room for one float32."""
    if is_integer:
        lower = np.float64(threshold) - slack
        return _as_score(lower, is_integer, number)
    number.view(np.uint32)[0] = np.uint32(max(threshold, 0)) << np.uint32(16)
    lower = (1 - 2.0**-8) * np.float64(number[0]) - slack
    return _as_score(lower if threshold >= 0 else -np.inf, is_integer, number)


@inner
def _as_score(lower, is_integer, number):  # type: ignore[no-untyped-def]
    """The largest score that is no larger, as integers are compared; above all where there is none to compare."""
    if is_integer:
        limits = np.iinfo(np.int32)
        return np.int64(np.floor(lower)) if limits.min < lower < limits.max else np.int64(limits.max)
    if not lower >= 0:
        return np.int64(np.iinfo(np.int16).max)
    number[0] = np.float32((1 - 2.0**-7) * lower)
    return np.int64(bfloat16_bits(number.view(np.uint32)[0]))


@inner
def _reaching(row, starts, count, step, bound, columns):  # type: ignore[no-untyped-def]
    """How many of a row's entries s, s + step, s + 2 step, ... for `count` starts s reach a bound; and their columns.

    Those are written until there is no room. (No branch, since a processor cannot foresee which do.)
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
def _split(row, columns, count, bound, found, reaching, rest):  # type: ignore[no-untyped-def]
    """Writes those columns that reach a bound after the `found` ones that are there, the others to `rest`.

    That may be `columns` itself. Gives how many there are now of either.
    """
    others = 0
    for number in range(count):
        column = columns[number]
        reaching[found], rest[others] = column, column
        reaches = row[column] >= bound
        found += reaches
        others += not reaches
    return found, others


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
    """Writes the largest of values, falling, and their keys, to where those before `start` are in their order."""
    for number in range(start, stop):
        value = values[number]
        place = min(number, len(similarity) - 1)
        if number > place and not value > similarity[place]:
            continue
        while place > 0 and value > similarity[place - 1]:
            similarity[place], index[place] = similarity[place - 1], index[place - 1]
            place -= 1
        similarity[place], index[place] = value, keys[number]


@inner
def _take(query, keys, order, chosen, start, stop, exact, similarity, index):  # type: ignore[no-untyped-def]
    """Scores the keys of the columns chosen from one place to another, which become keys; and keeps the best."""
    for place in range(start, stop):
        chosen[place] = order[chosen[place]]
    place = start
    while place + 4 <= stop:
        _four_dots(query, keys, chosen, place, exact)
        place += 4
    while place < stop:
        exact[place] = dot(query, keys[chosen[place]])
        place += 1
    _insert(exact, chosen, start, stop, similarity, index)


@loop
def _sift(  # type: ignore[no-untyped-def]
    scores,
    is_integer,
    slack,
    unit,
    shift,
    error,
    order,
    own,
    queries,
    keys,
    group,
    fine,
    most,
    similarity,
    index,
    counts,
    seen,
):
    (num_rows, num_keys), num_neighbors = scores.shape, similarity.shape[1]
    num_fine, num_coarse = num_keys // fine, num_keys // group
    of_type, lowest, highest = scores.dtype.type, np.iinfo(scores.dtype).min, np.iinfo(scores.dtype).max
    for chunk in numba.prange(-(-num_rows // _CHUNK)):
        fine_maxima, coarse_maxima = np.empty(num_fine, scores.dtype), np.empty(num_coarse, scores.dtype)
        starts, parts, columns = np.zeros(1, np.int64), np.empty(num_fine, np.int64), np.empty(most + 1, np.int64)
        chosen = np.empty(most + 1, np.int64)
        groups, exact, number = np.empty(num_coarse, np.int64), np.empty(most + 1, np.float32), np.empty(1, np.float32)
        for row in range(chunk * _CHUNK, min(chunk * _CHUNK + _CHUNK, num_rows)):
            if len(own):
                scores[row, own[row]] = lowest
            _maxima(scores[row], fine_maxima)
            _maxima(fine_maxima, coarse_maxima)
            threshold = _kth_largest(coarse_maxima, num_neighbors)
            least = _lower(threshold, slack[row], is_integer, number)
            count = _reaching(coarse_maxima, starts, 1, 1, of_type(least), groups)
            count = _reaching(fine_maxima, groups, count, num_coarse, of_type(least), parts)
            count = _reaching(scores[row], parts, count, num_fine, of_type(least), columns)
            if num_neighbors <= count <= most:
                first, count = _split(scores[row], columns, count, of_type(threshold), 0, chosen, columns)
                _take(queries[row], keys, order, chosen, 0, first, exact, similarity[row], index[row])
                lower = (similarity[row, -1] - shift[row]) / unit[row] - error[row]
                bound = _as_score(lower, is_integer, number)
                if bound == highest:
                    bound = least
                count, _ = _split(scores[row], columns, count, of_type(bound), first, chosen, columns)
                _take(queries[row], keys, order, chosen, first, count, exact, similarity[row], index[row])
            counts[row] = count
    total, num_left = 0, 0
    for row in range(num_rows):
        total += min(counts[row], most + 1)
        num_left += counts[row] < num_neighbors or counts[row] > most
    seen[0], seen[1] = total, num_left
