"""Several processes, on one host or many, as `torchrun` starts them; on one process everything here is a no-op.

torch's own parts are the engine (process group, DDP, autocast, GradScaler): four lines in the loop, whose whole state
can be saved, where a wrapper around them would stand between the reader and what their own trainer has to do.
"""

from __future__ import annotations

import atexit
import os
import time
from typing import Any

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from graphcorrect.cli.devices import find_device
from segmentation.batchnorm import convert_batchnorm


def join(device: str) -> torch.device:
    """Join the others where `torchrun` started several, until this process ends; returns its device.

    Once: a second group would find the first one's keys in the store that torchrun keeps, and hang.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    found = find_device(device, "`running.device` (--device)")
    if several and not dist.is_initialized():
        dist.init_process_group("nccl" if found.type == "cuda" else "gloo")
        atexit.register(leave)
    if found.type == "cuda" and found.index is not None:
        torch.cuda.set_device(found)
    return found


def leave() -> None:
    """Part from the others.

    DDP keeps gloo's threads alive beyond the end of the process group. One that is still freeing the tensors of the
    last exchange while the interpreter ends aborts the process, so they are given a moment.
    """
    if distributed():
        dist.destroy_process_group()
        time.sleep(0.2)


def distributed() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized()


def rank_and_ranks() -> tuple[int, int]:
    """This process's number and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if distributed() else (0, 1)


def is_first() -> bool:
    """Whether this is the process that writes files; known before the processes join."""
    return int(os.environ.get("RANK", "0")) == 0


def barrier() -> None:
    """Wait for all."""
    if distributed():
        dist.barrier()


def synchronize_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """BatchNorm over the joined batch: torch's on GPUs, which has none for CPUs, and `SyncedBatchNorm` there.

    timm's conversion rather than torch's own, which drops the activation inside timm's BatchNorm layers.
    """
    if not distributed():
        return model
    return convert_sync_batchnorm(model) if device.type == "cuda" else convert_batchnorm(model)


def wrap_ddp(model: nn.Module) -> nn.Module:
    """The model in what averages gradients over processes."""
    # The embedding and the refiner have no gradient in some methods.
    return DistributedDataParallel(model, find_unused_parameters=True) if distributed() else model


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum over all processes, as a new tensor without gradient."""
    total = values.detach().clone()
    if distributed():
        dist.all_reduce(total)
    return total


def mean_over_ranks(values: dict[str, Tensor]) -> dict[str, float]:
    """Numbers for the log: the mean over all processes of each scalar."""
    stacked = sum_over_ranks(torch.stack([value.detach().double() for value in values.values()]))
    return dict(zip(values, (stacked / rank_and_ranks()[1]).tolist(), strict=True))


def gather(value: Any) -> list[Any]:
    """What each process holds, in order."""
    if not distributed():
        return [value]
    gathered = [None] * rank_and_ranks()[1]
    dist.all_gather_object(gathered, value)
    return gathered
