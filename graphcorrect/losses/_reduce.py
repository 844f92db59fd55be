"""Reductions that are the same on one process and on many."""

from typing import get_args

import torch
from torch import Tensor

from graphcorrect import _checks
from graphcorrect._typing import Reduction
from graphcorrect.distributed import sum_over_ranks, world_size

_REDUCTIONS = get_args(Reduction)  # here, since torch 2.4 compiles no call of get_args


def check_reduction(reduction: object) -> None:
    _checks.one_of("reduction", reduction, _REDUCTIONS)


def mean_over_ranks(total: Tensor, count: Tensor) -> Tensor:
    """A rank's share of the mean over the joined batch: `total` over the ranks' average count, 0 if that is 0.

    The average of the ranks' results, which DistributedDataParallel takes of their gradients, is then the mean over
    the joined batch, however unevenly the counted nodes are spread.
    """
    average = sum_over_ranks(count.to(torch.float64)) / world_size()
    is_empty = average == 0
    # A product with zero rather than a constant: every rank keeps a graph to differentiate.
    divided = total / torch.where(is_empty, torch.ones_like(average), average).to(total.dtype)
    return torch.where(is_empty, torch.zeros_like(divided), divided)
