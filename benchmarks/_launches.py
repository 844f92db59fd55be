"""Counts the operations of a call that a GPU would launch, as torch's profiler sees them."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from graphcorrect.ops._dispatch import Operation

# Operations that move no number: views, allocations, and what reads one number on the host
FREE = frozenset(
    "view _unsafe_view t transpose expand unsqueeze squeeze slice select detach detach_ alias permute as_strided split "
    "split_with_sizes unbind _reshape_alias lift_fresh empty new_empty empty_like empty_strided resize_ "
    "new_empty_strided unfold diagonal view_as set_ item _local_scalar_dense chunk resolve_conj resolve_neg "
    "result_type promote_types is_nonzero".split()
)
OURS = "graphcorrect::"
KEYS = ("CUDA", "CPU", "CompositeExplicitAutograd")


def operations(step: Callable[[], Any], as_one: Collection[str] = ()) -> Counter[str]:
    """What a GPU would launch for a call, counted on a CPU: torch's operations by name, also inside custom ones.

    An operation inside another that has a kernel is a part of it and not counted.

    Args:
        step: the call; it runs twice, the first time uncounted.
        as_one: operations of this library that are counted as one each, such as "unit_rows".
    """
    with _as_on_a_gpu(), _marked(as_one):
        step()  # what is set up once is no part of a step
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            step()
    spans = ((event.thread, event.time_range.start, event.time_range.end, event.name) for event in profiled.events())
    marks = {OURS + name for name in as_one}
    return outermost(spans, lambda name: name in marks or has_kernel(name))


@contextmanager
def _as_on_a_gpu() -> Iterator[None]:
    """Nothing looks at values, and factors of the class graph are of low rank whatever their number."""
    readers = [name for name, module in sys.modules.items() if name.startswith("graphcorrect.")
               and hasattr(module, "reading_is_free")]  # fmt: skip
    with ExitStack() as patched:
        for name in readers:
            patched.enter_context(mock.patch(f"{name}.reading_is_free", return_value=False))
        patched.enter_context(mock.patch("graphcorrect.ops.class_layout.MAX_ENTRIES_ON_CPU", 2**62))
        yield


@contextmanager
def _marked(names: Collection[str]) -> Iterator[None]:
    """Gives each call of these operations a span in the profile; torch gives custom operations none of their own."""
    choose = Operation.choose

    def choose_marked(operation: Operation, *args: Any) -> Any:
        kernel = choose(operation, *args)
        if operation.name not in names:
            return kernel
        run = operation.definition if kernel is None else kernel.load()

        def marked(*args: Any) -> Any:
            with record_function(OURS + operation.name):
                return run(*args)

        return SimpleNamespace(name="torch" if kernel is None else kernel.name, load=lambda: marked)

    with mock.patch.object(Operation, "choose", choose_marked):
        yield


def outermost(spans: Iterable[tuple[int, float, float, str]], counted: Callable[[str], bool]) -> Counter[str]:
    """Counts (thread, start, end, name) of names that are `counted`, save for those inside another of their thread."""
    found: Counter[str] = Counter()
    busy_until: dict[int, float] = {}
    for thread, start, end, name in sorted(spans, key=lambda span: (span[0], span[1], -span[2])):
        if counted(name) and start >= busy_until.get(thread, -1.0):
            busy_until[thread] = end
            found[name.removeprefix("aten::")] += 1
    return found


def launches(step: Callable[[], Any]) -> Counter[str]:
    """What a call launches on the GPU at hand: kernels, copies and fills by name."""
    step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        step()
        torch.cuda.synchronize()
    return Counter(event.name for event in profiled.events() if event.device_type == DeviceType.CUDA)


@functools.cache
def has_kernel(name: str) -> bool:
    """Whether an operation of torch is work of its own on a device, and not made of others."""
    namespace, _, short = name.partition("::")
    if namespace != "aten" or short in FREE or not hasattr(torch.ops.aten, short):
        return False
    overloads = getattr(torch.ops.aten, short).overloads()
    full_names = [name if overload == "default" else f"{name}.{overload}" for overload in overloads]
    return any(_is_registered(full_name, key) for full_name in full_names for key in KEYS)


def _is_registered(name: str, key: str) -> bool:
    try:
        return torch._C._dispatch_has_kernel_for_dispatch_key(name, key)
    except RuntimeError:  # an overload that TorchScript alone knows
        return False
