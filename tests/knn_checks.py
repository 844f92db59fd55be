"""What every search for neighbors is held to, a full sort in float64, and float32 rows to search in."""

import reference
import torch
from strategies import random_features


def full_sort(queries, keys, num_neighbors, *, exclude_self=False, normalize=True, key_mask=None):
    """The largest entries of each row of the float64 similarity matrix, sorted; -inf where a key may not be found."""
    if normalize:
        queries, keys = reference.unit(queries), reference.unit(keys)
    scores = queries.double() @ keys.double().T
    if exclude_self:
        scores = scores.masked_fill(torch.eye(len(scores), dtype=torch.bool), -torch.inf)
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask, -torch.inf)
    return scores.sort(dim=1, descending=True).values[:, :num_neighbors], scores


def check(found, queries, keys, num_neighbors, tolerance=1e-6, **options):
    """`found` holds the best similarities, and at each index the similarity it claims; no key twice."""
    best, scores = full_sort(queries, keys, num_neighbors, **options)
    torch.testing.assert_close(found.similarity.double(), best, rtol=tolerance, atol=tolerance)
    real = best > -torch.inf
    claimed = scores.gather(1, found.index)
    torch.testing.assert_close(claimed[real], best[real], rtol=tolerance, atol=tolerance)
    assert found.index.dtype == torch.int64
    assert (found.index[~real] == 0).all()
    for row, filled in zip(found.index, real, strict=True):
        assert len(set(row[filled].tolist())) == int(filled.sum())


def features_of(*shape, seed=0):
    return random_features(*shape, seed=seed, dtype=torch.float32)
