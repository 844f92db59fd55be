"""float32 or better inside, the caller's dtype outside.

Similarities, softmax and reductions over thousands of nodes lose labels in fp16 (a sum over 16k nodes can overflow) and
in bf16 (three significant digits), so that every public call widens its inputs and turns autocast off while it works.
"""

import torch
from torch import Tensor


def widen(tensor: Tensor) -> Tensor:
    """float16 and bfloat16 become float32; float32 and float64 stay."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def full_precision(tensor: Tensor) -> torch.autocast:
    """A context in which autocast does not narrow the operations on the device of `tensor`."""
    return torch.autocast(tensor.device.type, enabled=False)
