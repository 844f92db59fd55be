"""What crosses ranks: sums and rows. Every function is a no-op on one process.

Collectives are unconditional and of a fixed order, so that a rank with nothing to add takes part like any other and
cannot hang the rest. Nothing is cached: the process group may come up after a module was built.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes that take part; 1 outside `torch.distributed`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0; 0 outside `torch.distributed`."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum of `tensor` over all ranks, without gradient; shapes must agree. The tensor itself on one process."""
    total = tensor.detach()
    if world_size() > 1:
        total = total.clone()
        dist.all_reduce(total)
    return total


def gather_rows(rows: Tensor) -> Tensor:
    """The rows (n, ...) of all ranks below each other, in rank order; ranks may hold unequal numbers, also none."""
    if world_size() == 1:
        return rows.detach()
    counts = torch.zeros(world_size(), dtype=torch.int64, device=rows.device)
    counts[rank()] = len(rows)
    dist.all_reduce(counts)
    numbers = counts.tolist()
    # all_gather wants equal shapes: pad to the longest, trim after
    padded = rows.new_zeros((max(numbers), *rows.shape[1:]))
    padded[: len(rows)] = rows.detach()
    gathered = [torch.empty_like(padded) for _ in numbers]
    dist.all_gather(gathered, padded)
    return torch.cat([part[:number] for part, number in zip(gathered, numbers, strict=True)])
