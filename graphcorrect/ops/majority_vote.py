"""Label images on a coarser grid, each cell with the label that most of its pixels carry."""

import torch
from torch import Tensor


def majority_vote(labels: Tensor, size: tuple[int, int], num_classes: int, *, ignore_index: int) -> Tensor:
    """Pools label images (B, H, W) to a grid (h, w); ties, and cells where void has the most pixels, become void.

    Every pixel casts one vote in each cell that holds it, and one scatter into (B h w, C + 2) counts them all: the same
    operations for any number of classes. Labels outside [0, C) vote for void. Cells are those of torch's adaptive
    pooling, which overlap by a pixel where the sizes do not divide.
    """
    batch, (rows, columns) = len(labels), size
    void, padding = num_classes, num_classes + 1
    is_class = (labels >= 0) & (labels < num_classes)
    if 0 <= ignore_index < num_classes:
        is_class &= labels != ignore_index
    votes = torch.where(is_class, labels, void).long()
    votes = _by_cell(_by_cell(votes, rows, padding).flatten(1, 2).mT, columns, padding)  # (B, w, x, h y)
    votes = votes.unflatten(-1, (rows, -1)).permute(0, 3, 1, 4, 2).reshape(batch * rows * columns, -1)
    width = num_classes + 2
    place = votes + torch.arange(0, len(votes) * width, width, device=labels.device)[:, None]
    # Flat, since torch's deterministic mode takes scatters of one dimension alone
    place = place.flatten()
    counts = torch.zeros(len(votes) * width, dtype=torch.int32, device=labels.device)
    counts.scatter_add_(0, place, torch.ones((), dtype=torch.int32, device=labels.device).expand_as(place))
    most, winner = counts.view(len(votes), width)[:, :padding].topk(min(2, padding))
    is_void = (winner[:, 0] == void) | (most[:, 0] == most[:, -1])
    return torch.where(is_void, ignore_index, winner[:, 0]).reshape(batch, rows, columns).to(labels.dtype)


def _by_cell(votes: Tensor, count: int, padding: int) -> Tensor:
    """Votes (B, L, ...) by the cells of a side, (B, count, y, ...), where short cells end in `padding`."""
    length = votes.shape[1]
    if length % count == 0:
        return votes.unflatten(1, (count, length // count))
    cell = torch.arange(count, device=votes.device)
    first, end = cell * length // count, -(-(cell + 1) * length // count)
    longest = max(-(-(each + 1) * length // count) - each * length // count for each in range(count))
    place = first[:, None] + torch.arange(longest, device=votes.device)
    inside = (place < end[:, None]).view(1, count, longest, *(1 for _ in votes.shape[2:]))
    cells = votes.index_select(1, place.clamp_max(length - 1).flatten()).unflatten(1, (count, longest))
    return torch.where(inside, cells, padding)
