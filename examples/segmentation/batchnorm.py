"""BatchNorm whose statistics are those of the joined batch, for CPU processes, where torch's SyncBatchNorm refuses.

Two sums cross the processes forward (of the values, then of the squared distances to the mean that the first one gave:
one pass would cancel digits) and their gradients backward, so that several processes compute what one does.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SumOverRanks(torch.autograd.Function):
    """The sum over processes; each one's result depends on all, so its gradient is the sum of all their gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total


class SyncedBatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` over the batches of all processes; `after` is what timm's variants do next (activation)."""

    def __init__(self, num_features: int, eps: float, momentum: float):
        super().__init__(num_features, eps, momentum)
        self.after: nn.Module | None = None

    def forward(self, maps: Tensor) -> Tensor:
        normalized = self._normalized(maps) if self.training else super().forward(maps)
        return normalized if self.after is None else self.after(normalized)

    def _normalized(self, maps: Tensor) -> Tensor:
        dtype, maps = maps.dtype, maps.to(torch.promote_types(maps.dtype, torch.float32))  # under autocast bf16 or fp16
        count = SumOverRanks.apply(maps.new_tensor([maps.numel() / maps.shape[1]], dtype=torch.float64))
        mean = SumOverRanks.apply(maps.sum((0, 2, 3))) / count.to(maps.dtype)
        centered = maps - mean[:, None, None]
        variance = SumOverRanks.apply(centered.square().sum((0, 2, 3))) / count.to(maps.dtype)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            unbiased = variance * (count / (count - 1)).to(maps.dtype)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centered * scale[:, None, None] + self.bias[:, None, None]).to(dtype)


def convert_batchnorm(module: nn.Module) -> nn.Module:
    """The module with every BatchNorm2d replaced by a synced one that shares its parameters and buffers, same names."""
    if isinstance(module, nn.BatchNorm2d):
        synced = SyncedBatchNorm(module.num_features, module.eps, module.momentum)
        synced.weight, synced.bias = module.weight, module.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            setattr(synced, name, getattr(module, name))
        if hasattr(module, "act"):  # timm's BatchNormAct2d
            synced.after = nn.Sequential(module.drop, module.act)
        return synced.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, convert_batchnorm(child))
    return module
