"""The values of tensors: float32 or better inside, the caller's dtype outside; and whether a check can read them.

Similarities, softmax and reductions over thousands of nodes lose labels in fp16 (a sum over 16k nodes can overflow) and
in bf16 (three significant digits), so that every public call widens its inputs and turns autocast off while it works.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack


def widen(tensor: Tensor) -> Tensor:
    """float16 and bfloat16 become float32; float32 and float64 stay."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """A context in which autocast does not narrow the operations on the device of `tensor`."""
    return nullcontext() if tensor.is_meta else torch.autocast(tensor.device.type, enabled=False)


def is_traced() -> bool:
    """Whether a compiler reads the code rather than Python runs it."""
    return torch.compiler.is_compiling()


def values_can_be_read(tensor: Tensor) -> bool:
    """False while a compiler traces, whose graph a branch on values would split, and for tensors without values."""
    return not (is_traced() or tensor.is_meta or is_fake(tensor))


def reading_is_free(tensor: Tensor) -> bool:
    """Whether a look at the values costs next to nothing: on a CPU, while nothing records what is computed."""
    if not values_can_be_read(tensor) or tensor.device.type != "cpu":
        return False
    is_recorded = bool(torch._C._get_tracing_state()) or bool(_get_current_dispatch_mode_stack())
    return not is_recorded and torch._C._functorch.maybe_get_level(tensor) < 0
