"""Where a look at values costs nothing: on a CPU, outside a compiler. Elsewhere it waits, or breaks the graph."""

import torch
from torch import Tensor


def may_look(tensor: Tensor) -> bool:
    """Whether what is done may depend on the values of a tensor."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def is_seen_full(mask: Tensor) -> bool:
    """Whether a look, where it is free, finds a mask True throughout: what it guards can then be left out."""
    return may_look(mask) and bool(mask.all())
