"""Reductions that are the same on one process and on many."""

from typing import get_args

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
    # Where nothing is counted the total is zero: every rank keeps a graph to differentiate.
    ranks = world_size()
    average = sum_over_ranks(count).to(total.dtype) / ranks if ranks > 1 else count.to(total.dtype)
    return total / average.clamp_min(1.0 / ranks)
