"""Copies of modules that are to stay as they are: teachers, and encoders that make keys."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves


def copy_of(name: str, module: nn.Module) -> nn.Module:
    """A deep copy in evaluation mode without gradients, also of a module that keeps tensors of its last pass.

    Torch refuses to copy those. They are kept without their gradient: feature maps of a hook, the weight that
    `weight_norm` computes. `name` is what messages call the module.

    Raises:
        TypeError: it has parameters without a shape yet, or something that cannot be copied.
    """
    lazy = [each for each, parameter in module.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise TypeError(
            f"expected `{name}` with shapes of its own, got lazy {', '.join(lazy[:5])}; pass it a batch first"
        )
    memo: dict[int, Any] = {}
    with torch.inference_mode(False), torch.no_grad():  # else the copy of a TorchScript module belongs to a graph
        for each in module.modules():
            for kept in tree_leaves(list(vars(each).values())):
                if isinstance(kept, Tensor) and not kept.is_leaf:
                    memo[id(kept)] = kept.detach().clone()
        try:
            copied = copy.deepcopy(module, memo).eval()
        except (RuntimeError, TypeError) as error:
            raise TypeError(
                f"expected `{name}` that can be copied (copy.deepcopy), got one that cannot: {error}"
            ) from error
        for parameter in copied.parameters():  # a TorchScript module has no requires_grad_ of its own
            parameter.requires_grad_(False)
    return copied
