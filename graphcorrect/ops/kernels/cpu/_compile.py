"""Loops that numba compiles for a CPU, in place of a dozen passes of torch's each, run by as many threads as torch has.

Importing this file imports numba; a rule of :mod:`graphcorrect.ops` does so where it is installed.
"""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

# Sums in any order and fused products, but NaN, Inf and division as they are defined
_SETTINGS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz"},
}
# Of numba's ways to run threads, those that bear several loops at once
_SAFE_LAYERS = ("omp", "tbb")

_first_loop = threading.Lock()
_is_forked = False


def inner(function: Callable[..., Any]) -> Any:
    """Compiles what a loop does with a row, or a part of it."""
    return numba.njit(function, **_SETTINGS)


def loop(function: Callable[..., None]) -> Callable[..., None]:
    """Compiles a function that goes through its rows by `numba.prange`, at the first call with such arguments.

    It takes tensors (contiguous, on the CPU) and numbers, and writes to some of the tensors. What was compiled is kept
    on disk for later processes, where there is a place to write.
    """
    compiled = _compiled(function)

    @functools.wraps(function)
    def run(*arguments: Tensor | float | None) -> None:
        given = [_array(each) if isinstance(each, Tensor) else each for each in arguments]
        own = numba.get_num_threads()
        numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
        try:
            compiled(*given)
        finally:
            numba.set_num_threads(own)

    return run


def _array(tensor: Tensor) -> np.ndarray:
    return (tensor.detach() if tensor.requires_grad else tensor).numpy()


def _compiled(function: Callable[..., None]) -> Any:
    try:
        compiled = numba.njit(function, parallel=True, cache=True, **_SETTINGS)
        # numba compares the file of the function only, not those that it calls into
        kept = compiled._cache._cache_file
        kept._source_stamp = (kept._source_stamp, _digest())
        return compiled
    # RuntimeError: neither beside the package nor in the user's cache may files be written. The others: sources cannot
    # be read, or another version of numba keeps its cache in another way. What could be stale is not kept.
    except (RuntimeError, OSError, AttributeError):
        return numba.njit(function, parallel=True, **_SETTINGS)


@functools.cache
def _digest() -> str:
    """Of the sources of all kernels here: after a change of any of them all are compiled again."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


@functools.cache
def _has_safe_threads() -> bool:
    """Whether loops may be called from several threads at once: one of numba's ways would end the process."""
    if numba.config.DISABLE_JIT:  # NUMBA_DISABLE_JIT=1 leaves loops plain Python, for debuggers and mutants
        return True
    with _first_loop:
        number = torch.get_num_threads()
        _touch(torch.zeros(1))
        torch.set_num_threads(
            number
        )  # at its first loop numba changes that of the OpenMP library, which may be torch's
        return numba.threading_layer() in _SAFE_LAYERS


@loop
def _touch(values):  # type: ignore[no-untyped-def]
    for place in numba.prange(len(values)):
        values[place] += 1.0


def may_run() -> bool:
    """Whether loops can run in this process: not in one forked from one where they ran, whose threads are gone."""
    return not _is_forked and _has_safe_threads()


def _mark_forked() -> None:
    global _is_forked
    _is_forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_forked)
