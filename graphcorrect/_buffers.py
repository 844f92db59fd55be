"""Modules that outlive the mode in which they were made, and copies of modules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from typing_extensions import Self


class LastingBuffers(nn.Module):
    """Buffers that can be written to outside `torch.inference_mode`, and whose writes are counted, wherever it is made.

    Tensors that are made, moved, copied or unpickled within that mode can't.
    """

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """As of any module."""
        super().register_buffer(name, _lasting(tensor), persistent)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        with torch.inference_mode(False):
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._buffers = {name: _lasting(buffer) for name, buffer in self._buffers.items()}


def _lasting(tensor: Tensor | None) -> Tensor | None:
    if tensor is None or not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        return tensor.clone()


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
