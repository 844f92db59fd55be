"""Whether the values of a tensor can be read, which a check needs before it looks at them."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake


def values_can_be_read(tensor: Tensor) -> bool:
    """False while a compiler traces, whose graph a branch on values would split, and for tensors without values."""
    return not (torch.compiler.is_compiling() or tensor.is_meta or is_fake(tensor))
