"""The rule by which an operation chooses its implementation: one place that asks, and that can be asked why.

An implementation is refused for a reason in words, such as "numba is not installed: pip install numba".
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
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

Refusal = Callable[..., "str | None"]
T = TypeVar("T")

OPERATIONS: dict[str, Operation[Any]] = {}  # by name, in the order in which they were imported
_ruled_out: set[str] = set()


class Kernel(NamedTuple):
    """An implementation beside the definition.

    Attributes:
        name: "numba", "triton", "faiss".
        refuses: says for the arguments of a call why the kernel does not serve them; None where it does.
        module: the file that holds it, imported at its first use.
        function: its name there; arguments and results are those of the definition.
    """

    name: str
    refuses: Refusal
    module: str
    function: str

    def load(self) -> Callable[..., Any]:
        """The function, whose file is imported if it was not before."""
        return getattr(importlib.import_module(self.module), self.function)  # type: ignore[no-any-return]


class Operation(Generic[T]):
    """A definition in plain torch and the kernels that may stand in for it, most preferred first."""

    def __init__(self, name: str, definition: Callable[..., T], *kernels: Kernel) -> None:
        self.name = name
        self.definition = definition
        self.kernels = kernels
        OPERATIONS[name] = self

    def __call__(self, *args: Any) -> T:
        """Runs whichever implementation serves these arguments."""
        kernel = self.choose(*args)
        run: Callable[..., T] = self.definition if kernel is None else kernel.load()
        return run(*args)

    def choose(self, *args: Any) -> Kernel | None:
        """The kernel that serves these arguments; None where the definition does."""
        return next((kernel for kernel in self.kernels if refusal(kernel, *args) is None), None)

    def explain(self, *args: Any) -> tuple[str, dict[str, str]]:
        """What serves such arguments, and why each of the implementations before it does not."""
        reasons: dict[str, str] = {}
        for kernel in self.kernels:
            reason = refusal(kernel, *args)
            if reason is None:
                return kernel.name, reasons
            reasons[kernel.name] = reason
        return "torch", reasons


def refusal(kernel: Kernel, *args: Any) -> str | None:
    """Why a kernel does not serve a call with these arguments; None where it does."""
    return "it is ruled out" if kernel.name in _ruled_out else kernel.refuses(*args)


def _tensors(args: tuple[object, ...]) -> list[Tensor]:
    return [each for each in args if isinstance(each, Tensor)]


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Rules implementations out while it lasts, for tests and counts."""
    added = set(names) - _ruled_out
    _ruled_out.update(added)
    try:
        yield
    finally:
        _ruled_out.difference_update(added)


def numba_refuses(*args: object) -> str | None:
    """Numba's loops serve float32 or float64 on a CPU, beside integers and masks."""
    for tensor in _tensors(args):
        if tensor.device.type != "cpu":
            return f"numba's loops run on the CPU, not on {tensor.device.type}"
        if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
            return f"numba's loops take float32 or float64, not {tensor.dtype}"
    return _numba_is_missing()


def _numba_is_missing() -> str | None:
    if "numba" in _ruled_out:
        return "it is ruled out"
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
        return "numba is not installed: pip install numba"
    return None


def triton_refuses(*args: object) -> str | None:
    """Triton's kernels serve float32 on a GPU that Triton compiles for."""
    tensors = _tensors(args)
    if any(tensor.numel() == 0 for tensor in tensors):
        return "an empty tensor leaves nothing to launch"
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
        return "triton is not installed: pip install triton"
    if "CC" in os.environ or any(shutil.which(name) for name in ("gcc", "clang", "cc")):
        return None
    return "triton needs a C compiler at its first launch: install gcc, or set CC"
