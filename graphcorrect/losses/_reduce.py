"""Reductions that are the same on one process and on many."""

from typing import get_args

import torch
from torch import Tensor

from graphcorrect import _checks
from graphcorrect.distributed import sum_over_ranks, world_size
from graphcorrect.ops.typing import Reduction

_REDUCTIONS = get_args(Reduction)  # here, since torch 2.4 compiles no call of get_args


def check_reduction(reduction: object) -> None:
    _checks.one_of("reduction", reduction, _REDUCTIONS)


def mean_divisor(counted: Tensor, dim: tuple[int, ...] | None = None, *, dtype: torch.dtype) -> Tensor:
    """What a rank divides its total by for its share of the mean over the joined batch: the ranks' average count.

    `counted` is bool, what counts; its dimensions `dim` are summed, all of them for None.

    The average of the ranks' results, which DistributedDataParallel takes of their gradients, is then the mean over
    the joined batch, however unevenly the counted nodes are spread. Where no gradient is taken, as in an evaluation
    whose ranks hold unequal numbers of batches, each rank has the mean of its own nodes and waits for nobody.
    """
    ranks, count = world_size() if torch.is_grad_enabled() else 1, counted.sum(dim, dtype=dtype)
    average = sum_over_ranks(count) / ranks if ranks > 1 else count
    # Where nothing is counted the total is zero, and every rank keeps a graph to differentiate
    return average.clamp_min(1.0 / ranks)
