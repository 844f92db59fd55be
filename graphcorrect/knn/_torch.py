"""Exact search in tiles of a matrix product; the backend that the others are held to."""

import torch
from torch import Tensor

GROUP = 32  # columns whose maximum stands for them in the first pass of `best_of_scores`


def search(
    queries: Tensor,
    keys: Tensor,
    num_neighbors: int,
    *,
    exclude_self: bool,
    key_mask: Tensor | None,
    memory_budget: int,
) -> tuple[Tensor, Tensor]:
    """Finds the keys of largest inner product for queries (B, N, D) among keys (B, M, D): similarity, index (B, N, k).

    One tile of scores lives at a time: as many whole images, or as many rows of one image, as `memory_budget` bytes
    hold. Time O(B N M D), extra memory `memory_budget` plus O(B N k).
    """
    batch, num_queries, _ = queries.shape
    num_keys = keys.shape[1]
    padding = -num_keys % GROUP
    if padding:
        keys = torch.cat([keys, keys.new_zeros(batch, padding, keys.shape[2])], dim=1)
    # Scores, and a copy at the worst (topk works on one)
    row_bytes = 2 * max(1, keys.shape[1]) * queries.element_size()
    rows = max(1, min(num_queries, memory_budget // row_bytes))
    images = max(1, memory_budget // (row_bytes * max(1, num_queries))) if rows == num_queries else 1

    similarity = queries.new_empty(batch, num_queries, num_neighbors)
    index = torch.empty(batch, num_queries, num_neighbors, dtype=torch.int64, device=queries.device)
    for first in range(0, batch, images):
        image = slice(first, first + images)
        for start in range(0, num_queries, rows):
            tile = slice(start, start + rows)
            scores = queries[image, tile] @ keys[image].mT  # (images, rows, M + padding)
            if padding:
                scores[..., num_keys:] = -torch.inf
            if key_mask is not None:
                scores[..., :num_keys].masked_fill_(~key_mask[image, None], -torch.inf)
            if exclude_self:
                scores.diagonal(offset=start, dim1=-2, dim2=-1).fill_(-torch.inf)
            # On a GPU the shortcut costs more than it saves
            best = scores.topk(num_neighbors) if scores.is_cuda else best_of_scores(scores, num_neighbors)
            similarity[image, tile], index[image, tile] = best
    return similarity, index


def best_of_scores(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`scores.topk(count)` over rows of a multiple of GROUP entries, by way of the groups with the largest maxima.

    Exact: were one of the `count` largest entries in another group, then `count` groups would have maxima at least as
    large, hence `count` entries as large outside its group. Maxima of short contiguous groups are read off a row at the
    speed of memory, and what is left to sort partially is a fraction of it.
    """
    width = scores.shape[-1]
    rows = scores.reshape(scores.shape[:-1].numel(), width)
    chosen: list[tuple[Tensor, int]] = []
    for group in (GROUP, GROUP // 4):
        num_groups = rows.shape[1] // group
        if num_groups <= 2 * count:  # too little would be left out
            continue
        grouped = rows.reshape(-1, num_groups, group)
        groups = grouped.amax(-1).topk(count, sorted=False).indices
        first = torch.arange(len(rows), device=rows.device)[:, None] * num_groups
        rows = grouped.flatten(0, 1).index_select(0, (groups + first).flatten()).reshape(len(rows), count * group)
        chosen.append((groups, group))
    values, place = rows.topk(count)
    for groups, group in reversed(chosen):
        place = groups.gather(1, place // group) * group + place % group
    shape = (*scores.shape[:-1], count)
    return values.reshape(shape), place.reshape(shape)
