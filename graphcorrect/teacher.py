"""EMATeacher: a slow copy of a module that labels what its student learns from."""

import copy
from typing import Any

import torch
from torch import nn

from graphcorrect import _checks


class EMATeacher(nn.Module):
    r"""A copy whose parameters follow the student's: :math:`\theta' \leftarrow m \theta' + (1 - m) \theta`.

    Buffers are copied, not averaged: a teacher with the student's weights and its own stale BatchNorm statistics
    computes something that neither of them would. The copy stays in evaluation mode and never requires gradients.

    Args:
        model: the student, as one module: network and refiner together, unwrapped (not its DDP shell).
        momentum: share of the old value kept, in [0, 1]; the paper's range is 0.99 to 0.999.

    Attributes:
        module: the copy.
    """

    def __init__(self, model: nn.Module, *, momentum: float = 0.99) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"expected `model` to be a torch.nn.Module, got {type(model).__name__}")
        _checks.in_interval("momentum", momentum, 0.0, 1.0)
        self.momentum = momentum
        self.module = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the copy towards `model`; call it after each optimizer step.

        Raises:
            ValueError: `model` does not have the names and shapes of the copied one.
        """
        theirs = dict(model.named_parameters())
        ours = dict(self.module.named_parameters())
        self._check_alike(ours, theirs, "parameters")
        for name, parameter in ours.items():
            if parameter.is_floating_point() or parameter.is_complex():
                # lerp in the parameter's own dtype: keep teachers in float32, since 1 - m of a bfloat16 is lost
                parameter.lerp_(theirs[name].detach().to(parameter), 1.0 - self.momentum)
            else:
                parameter.copy_(theirs[name])
        their_buffers = dict(model.named_buffers())
        our_buffers = dict(self.module.named_buffers())
        self._check_alike(our_buffers, their_buffers, "buffers")
        for name, buffer in our_buffers.items():
            buffer.copy_(their_buffers[name])

    @staticmethod
    def _check_alike(ours: dict[str, Any], theirs: dict[str, Any], what: str) -> None:
        shapes = {name: tuple(tensor.shape) for name, tensor in ours.items()}
        came = {name: tuple(tensor.shape) for name, tensor in theirs.items()}
        if shapes != came:
            different = sorted(name for name in shapes.keys() | came.keys() if shapes.get(name) != came.get(name))
            raise ValueError(
                f"expected `model` with the {what} of the copied one, got differences in {', '.join(different[:5])}"
            )

    def train(self, mode: bool = True) -> "EMATeacher":
        """Leaves the copy in evaluation mode: a teacher has neither dropout nor batch statistics of its own."""
        super().train(mode)
        self.module.eval()
        return self

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the copy without gradients."""
        return self.module(*args, **kwargs)

    def extra_repr(self) -> str:
        """The settings that `repr` prints."""
        return f"momentum={self.momentum}"
