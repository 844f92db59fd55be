"""Whether the values of a tensor can be read, which a check needs before it looks at them."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack


def values_can_be_read(tensor: Tensor) -> bool:
    """False while a compiler traces, whose graph a branch on values would split, and for tensors without values."""
    return not (torch.compiler.is_compiling() or tensor.is_meta or is_fake(tensor))


def reading_is_free(tensor: Tensor) -> bool:
    """Whether a look at the values costs next to nothing: on a CPU, while nothing records what is computed."""
    if not values_can_be_read(tensor) or tensor.device.type != "cpu":
        return False
    is_recorded = bool(torch._C._get_tracing_state()) or bool(_get_current_dispatch_mode_stack())
    return not is_recorded and torch._C._functorch.maybe_get_level(tensor) < 0
