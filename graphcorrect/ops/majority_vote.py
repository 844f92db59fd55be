"""Label images on a coarser grid, each cell with the label that most of its pixels carry."""

import torch
from torch import Tensor


def majority_vote(votes: Tensor, size: tuple[int, int], num_classes: int, *, void: int) -> Tensor:
    """Pools label images (B, H, W) to a grid (h, w); ties, and cells where void has the most pixels, get `void`.

    Every pixel casts one vote in each cell that holds it, and one scatter into (B h w, C + 2) counts them all: the same
    operations for any number of classes. Cells are those of torch's adaptive pooling, which overlap by a pixel where
    the sizes do not divide.

    Args:
        votes: (B, H, W) int64 in [0, C]; C is a vote for void.
        size: (h, w).
        num_classes: C.
        void: what void is called in the result.
    """
    batch, (rows, columns), padding = len(votes), size, num_classes + 1
    by_row = _by_cell(votes, rows, padding).flatten(1, 2).mT
    cells = _by_cell(by_row, columns, padding)  # (B, w, x, h y)
    cells = cells.reshape(batch, columns, cells.shape[2], rows, cells.shape[3] // rows)
    votes = cells.permute(0, 3, 1, 4, 2).flatten(0, 2).flatten(1)
    width = num_classes + 2
    place = votes + torch.arange(0, len(votes) * width, width, device=votes.device)[:, None]
    # Flat, since torch's deterministic mode takes scatters of one dimension alone
    place = place.flatten()
    counts = torch.zeros(len(votes) * width, dtype=torch.int32, device=votes.device)
    counts.scatter_add_(0, place, torch.ones((), dtype=torch.int32, device=votes.device).expand_as(place))
    most, winner = counts.view(len(votes), width)[:, :padding].topk(min(2, padding))
    is_void = (winner[:, 0] == num_classes) | (most[:, 0] == most[:, -1])
    return torch.where(is_void, void, winner[:, 0]).reshape(batch, rows, columns)


def _by_cell(votes: Tensor, count: int, padding: int) -> Tensor:
    """Votes (B, L, ...) by the cells of a side, (B, count, y, ...), where short cells end in `padding`."""
    length = votes.shape[1]
    if length % count == 0:
        return votes.reshape(len(votes), count, length // count, *votes.shape[2:])
    cell = torch.arange(count, device=votes.device)
    first, end = cell * length // count, -(-(cell + 1) * length // count)
    longest = max(-(-(each + 1) * length // count) - each * length // count for each in range(count))
    place = first[:, None] + torch.arange(longest, device=votes.device)
    inside = (place < end[:, None]).view(1, count, longest, *(1 for _ in votes.shape[2:]))
    cells = votes.index_select(1, place.clamp_max(length - 1).flatten())
    return torch.where(inside, cells.view(len(votes), count, longest, *votes.shape[2:]), padding)
