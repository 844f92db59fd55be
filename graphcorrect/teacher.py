"""EMATeacher: a slow copy of a module that labels what its student learns from."""

from typing import Any

import torch
from torch import Tensor, nn

from graphcorrect import _checks
from graphcorrect._buffers import LastingBuffers
from graphcorrect._copies import copy_of
from graphcorrect._settings import printed


class EMATeacher(LastingBuffers):
    r"""A copy whose parameters follow the student's: :math:`\theta' \leftarrow m \theta' + (1 - m) \theta`.

    Running statistics of normalization layers are averaged alike, since those of the student's weights of today do not
    fit weights of the last :math:`1 / (1 - m)` steps; other buffers are copied. The copy stays in evaluation mode and
    never requires gradients.

    Args:
        model: the student, as one module: network and refiner together. Of a compiled student, or one in the wrapper of
            DDP or DataParallel, the module within is copied.
        momentum: share of the old value kept, in [0, 1]; the paper's range is 0.99 to 0.999, for tens of thousands of
            steps. A teacher should remember a small part of the training: of 600 steps 0.9 rather than 0.99.

    Attributes:
        module: the copy.

    Raises:
        TypeError: `model` is no module, holds parameters without a shape yet, or something that cannot be copied.
        ValueError: `momentum` is out of range.

    Example:
        >>> student = torch.nn.Linear(4, 3)
        >>> teacher = EMATeacher(student, momentum=0.99)
        >>> pseudo_labels = teacher(torch.randn(5, 4)).argmax(-1)
        >>> teacher.update(student)  # after each step of the optimizer
    """

    def __init__(self, model: nn.Module, *, momentum: float = 0.99) -> None:
        super().__init__()
        unwrapped = _unwrapped(model)
        _checks.in_interval("momentum", momentum, 0.0, 1.0)
        self.momentum = momentum
        self.module = copy_of("model", unwrapped)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the copy towards `model`, wrapped or not; call it after each optimizer step.

        Raises:
            TypeError: `model` is no module.
            ValueError: `model` does not have the names and shapes of the copied one.
        """
        student, teacher = _without_shells(_unwrapped(model), self.module)
        for what in ("parameters", "buffers"):
            theirs, ours = (_by_name(getattr(each, f"named_{what}")()) for each in (student, teacher))
            self._check_alike(ours, theirs, what)
            for name, tensor in ours.items():
                is_averaged = what == "parameters" or name.rpartition(".")[2] in _STATISTICS
                if is_averaged and (tensor.is_floating_point() or tensor.is_complex()):
                    # lerp in the teacher's own dtype: keep it in float32, since 1 - m of a bfloat16 is lost
                    tensor.lerp_(theirs[name].detach().to(tensor), 1.0 - self.momentum)
                else:
                    tensor.copy_(theirs[name])

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

    extra_repr = printed("momentum")


_STATISTICS = ("running_mean", "running_var")  # of normalization layers, torch's or anybody's

# What torch puts into the names of parameters where a part is compiled, checkpointed or sharded
_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")


def _unwrapped(model: nn.Module) -> nn.Module:
    """The module within torch.compile, DDP and DataParallel, however many there are around it.

    Raises:
        TypeError: it is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected `model` to be a torch.nn.Module, got {type(model).__name__}")
    while True:
        if isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        elif isinstance(model, nn.parallel.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


def _without_shells(first: nn.Module, second: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Two modules, without a wrapper that calls what it wraps `module` and that the other one does not have."""
    while _is_shell(first) != _is_shell(second):
        outer = first if _is_shell(first) else second
        inner = _unwrapped(outer.module)  # type: ignore[arg-type]
        first, second = (inner, second) if outer is first else (first, inner)
    return first, second


def _is_shell(model: nn.Module) -> bool:
    """Whether all parameters are those of its child `module`."""
    names = [name for name, _ in model.named_parameters()]
    is_child = isinstance(getattr(model, "module", None), nn.Module)
    return is_child and bool(names) and all(name.startswith("module.") for name in names)


def _by_name(tensors: Any) -> dict[str, Tensor]:
    """Tensors by their names in the plain module."""
    return {".".join(part for part in name.split(".") if part not in _WRAPPERS): tensor for name, tensor in tensors}
