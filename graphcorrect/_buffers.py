"""Modules that outlive the mode in which they were made."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

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
