"""The rule by which an operation chooses its implementation: one place that asks, and that can be asked why.

An implementation is refused for a reason in words, such as "numba is not installed: pip install graphcorrect[numba]".
The first that is not refused serves. The definition in plain torch comes last and serves everything.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

Refusal = Callable[..., "str | None"]

OPERATIONS: dict[str, Operation] = {}  # by name, in the order in which they were imported
_ruled_out: set[str] = set()


class Kernel(NamedTuple):
    """An implementation beside the definition.

    Attributes:
        name: "numba", "triton", "faiss".
        refuses: says for the tensors of a call why the kernel does not serve them; None where it does.
        module: the file that holds it, imported at its first use.
        function: its name there; arguments and results are those of the definition.
    """

    name: str
    refuses: Refusal
    module: str
    function: str


class Operation:
    """A definition in plain torch and the kernels that may stand in for it, most preferred first."""

    def __init__(self, name: str, definition: Callable[..., Any], *kernels: Kernel) -> None:
        self.name = name
        self.definition = definition
        self.kernels = kernels
        OPERATIONS[name] = self

    def __call__(self, *args: Any) -> Any:
        """Runs whichever implementation serves these arguments."""
        tensors = [each for each in args if isinstance(each, Tensor)]
        for kernel in self.kernels:
            if refusal(kernel, *tensors) is None:
                return getattr(importlib.import_module(kernel.module), kernel.function)(*args)
        return self.definition(*args)

    def explain(self, *tensors: Tensor) -> tuple[str, dict[str, str]]:
        """What serves such tensors, and why each of the implementations before it does not."""
        reasons: dict[str, str] = {}
        for kernel in self.kernels:
            reason = refusal(kernel, *tensors)
            if reason is None:
                return kernel.name, reasons
            reasons[kernel.name] = reason
        return "torch", reasons


def refusal(kernel: Kernel, *tensors: Tensor) -> str | None:
    """Why a kernel does not serve a call with these tensors; None where it does."""
    return "it is ruled out" if kernel.name in _ruled_out else kernel.refuses(*tensors)


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Rules implementations out while it lasts, for tests and counts: ``with without("numba", "triton"): ...``."""
    added = set(names) - _ruled_out
    _ruled_out.update(added)
    try:
        yield
    finally:
        _ruled_out.difference_update(added)


def numba_refuses(*tensors: Tensor) -> str | None:
    """Numba's loops serve float32 or float64 on a CPU, beside integers and masks."""
    for tensor in tensors:
        if tensor.device.type != "cpu":
            return f"numba's loops run on the CPU, not on {tensor.device.type}"
        if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
            return f"numba's loops take float32 or float64, not {tensor.dtype}"
    return _numba_is_missing()


def _numba_is_missing() -> str | None:
    if os.environ.get("GRAPHCORRECT_NUMBA") == "0":
        return "GRAPHCORRECT_NUMBA=0 rules numba out"
    if (reason := _import_of_numba_fails()) is not None:
        return reason
    from graphcorrect.ops.kernels.cpu import _compile  # not above: it imports numba

    return (
        None if _compile.may_run() else "numba's threads bear no calls from several threads, or are gone after a fork"
    )


@functools.cache
def _import_of_numba_fails() -> str | None:
    try:
        importlib.import_module("numba")
    except ImportError:
        return 'numba is not installed: pip install "graphcorrect[numba]"'
    return None


def triton_refuses(*tensors: Tensor) -> str | None:
    """Triton's kernels serve float32 on a GPU that Triton compiles for."""
    for tensor in tensors:
        if not tensor.is_cuda:
            return f"Triton's kernels run on CUDA devices, not on {tensor.device.type}"
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            return f"Triton's kernels take float32, not {tensor.dtype}"
    if (reason := triton_is_missing()) is not None:
        return reason
    if tensors and torch.cuda.get_device_capability(tensors[0].device) < (8, 0):
        return "Triton's kernels need a GPU of compute capability 8.0 or newer"
    return None


@functools.cache
def triton_is_missing() -> str | None:
    """Why Triton cannot be used: it is not installed, or not the C compiler that it needs at its first launch."""
    if importlib.util.find_spec("triton") is None:
        return 'triton is not installed: pip install "graphcorrect[triton]"'
    if "CC" in os.environ or any(shutil.which(name) for name in ("gcc", "clang", "cc")):
        return None
    return "triton needs a C compiler at its first launch: install gcc, or set CC"
