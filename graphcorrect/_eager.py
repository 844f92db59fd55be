"""What may be done outside a compiler: a look at values, and numba's loops, on a CPU; Triton, on a GPU."""

import functools
import importlib.util
import os
import shutil
from typing import Any

import torch
from torch import Tensor

_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # as of torch 2.7
# What torch.func hands on is no tensor with values of its own
_is_wrapped = getattr(getattr(torch._C, "_functorch", None), "is_functorch_wrapped_tensor", lambda tensor: False)


def may_look(tensor: Tensor) -> bool:
    """Whether what is done may depend on the values of a tensor."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def is_seen_full(mask: Tensor) -> bool:
    """Whether a look, where it is free, finds a mask True throughout: what it guards can then be left out."""
    return may_look(mask) and bool(mask.all())


def may_hide() -> bool:
    """Whether a compiler is at work that takes an operator of this library as it is: in an exported program it would
    have to be there again.
    """
    return torch.compiler.is_compiling() and not _is_exporting()


def may_loop(tensor: Tensor, *others: Tensor) -> bool:
    """Whether a loop that numba compiles can do the work of several passes: over float32 or float64 on a CPU.

    `others` are what it needs besides, of any dtype.
    """
    if tensor.dtype not in (torch.float32, torch.float64) or not all(map(_has_memory, (tensor, *others))):
        return False
    return (loops := _numba_loops()) is not None and loops.may_run()


def _has_memory(tensor: Tensor) -> bool:
    return may_look(tensor) and not _is_wrapped(tensor)


def may_fuse(tensor: Tensor) -> bool:
    """Whether a Triton kernel for float32 can do the work of several launches: on a GPU that Triton compiles for."""
    if not tensor.is_cuda or tensor.dtype != torch.float32 or torch.compiler.is_compiling() or not has_triton():
        return False
    return torch.cuda.get_device_capability(tensor.device) >= (8, 0)


@functools.cache
def _numba_loops() -> Any:
    """The file that compiles loops, where numba is installed and not ruled out by GRAPHCORRECT_NUMBA=0; or None."""
    if os.environ.get("GRAPHCORRECT_NUMBA") == "0":
        return None
    try:
        from graphcorrect.ops.kernels.cpu import _compile as _numba_loops  # not above: it imports numba
    except ImportError:
        return None
    return _numba_loops


@functools.cache
def has_triton() -> bool:
    """Whether triton is installed, and the C compiler that it needs at its first launch; it is imported where used."""
    if importlib.util.find_spec("triton") is None:
        return False
    return "CC" in os.environ or any(shutil.which(name) for name in ("gcc", "clang", "cc"))
