"""How every benchmark here measures: two sides that agree, timed in turn, with their peak memory beside them.

Each benchmark is a script with two or more *sides*, functions that do the same work. They are checked to agree, warmed
up, then alternate in one process, so that a machine whose speed drifts slows both. What is reported is the median of
the paired ratios with its interval; what is committed is every sample, with device, versions and sizes (JSON).

A side's peak memory is measured in a process of its own, above what it took before the call.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _records import save_record

from graphcorrect.ops._dispatch import numba_refuses, without


@dataclass
class Case:
    """One size: the seconds of each side by round, peak bytes of each side, and how well the sides agree."""

    sizes: dict[str, Any]
    seconds: dict[str, list[float]] = field(default_factory=dict)
    peak_bytes: dict[str, int | None] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)

    def median_seconds(self, side: str) -> float:
        return float(np.median(self.seconds[side]))

    def ratio(self, slow: str, fast: str) -> tuple[float, float, float]:
        """Median of the paired ratios slow / fast, with the ends of its 95 % interval (order statistics)."""
        ratios = np.sort(np.array(self.seconds[slow]) / np.array(self.seconds[fast]))
        half_width = 0.98 * np.sqrt(len(ratios))  # 1.96 sqrt(n) / 2, in ranks
        low = max(0, int(np.floor(len(ratios) / 2 - half_width)))
        high = min(len(ratios) - 1, int(np.ceil(len(ratios) / 2 + half_width)))
        return float(np.median(ratios)), float(ratios[low]), float(ratios[high])


def time_in_turn(
    sides: dict[str, Callable[[], Any]], *, rounds: int, device: torch.device, pause: float = 0.0
) -> dict[str, list[float]]:
    """Seconds of each side, one round after the other, after one uncounted round.

    `pause` is for sides whose libraries have threads of their own, which for some milliseconds wait busily for more
    work and take the cores from the side that follows.

    A round during which other processes took more than a tenth of a core is repeated, up to three times as many rounds
    in all: two sides that use the cores differently do not suffer alike. (Linux; elsewhere all rounds count.)
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    disturbed: list[dict[str, float]] = []
    for number in range(3 * rounds + 1):
        # The order alternates too, so that no side always finds the cache as the same other one left it.
        names = list(sides) if number % 2 else list(sides)[::-1]
        this_round = {}
        before, start_of_round = _ticks_of_others(), time.perf_counter()
        for name in names:
            time.sleep(pause)
            synchronize(device)
            start = time.perf_counter()
            result = sides[name]()
            synchronize(device)
            this_round[name] = time.perf_counter() - start
            del result
        ticks = _ticks_of_others() - before
        if number == 0:
            continue
        if ticks > 2 + 0.1 * os.sysconf("SC_CLK_TCK") * (time.perf_counter() - start_of_round):
            disturbed.append(this_round)
            continue
        for name in sides:
            seconds[name].append(this_round[name])
        if len(seconds[names[0]]) == rounds:
            return seconds
    # A machine that is never quiet: its rounds are as good as there are
    for this_round in disturbed[: rounds - len(seconds[names[0]])]:
        for name in sides:
            seconds[name].append(this_round[name])
    return seconds


def _ticks_of_others() -> float:
    """Clock ticks that processes other than this one have spent, save for the idle ones; 0 where that is not known."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    busy = sum(int(fields[place]) for place in (0, 1, 2, 5, 6, 7))  # all but idle and iowait
    own = os.times()
    return busy - os.sysconf("SC_CLK_TCK") * (own.user + own.system)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


CAPTURED, COMPILED, ALONE = ", captured", ", compiled", ", torch alone"


def has_loops(device: torch.device) -> bool:
    """Whether numba compiles loops of ours there, so that the same work by torch alone is a side of its own."""
    return numba_refuses(torch.empty(0, device=device)) is None


def alone(run: Callable[..., Any]) -> Callable[..., Any]:
    """The same work without the loops that numba compiles."""

    def run_alone(*arguments: Any) -> Any:
        with without("numba"):
            return run(*arguments)

    return run_alone


def with_captured(sides: dict[str, Callable[[], Any]], device: torch.device) -> dict[str, Callable[[], Any]]:
    """Beside each side, on a GPU, the same work captured."""
    if device.type != "cuda":
        return sides
    return sides | {name + CAPTURED: captured(run, device) for name, run in sides.items()}


def captured(run: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    """On a GPU, the same work as one CUDA graph: what is left is the GPU's own time, no launches."""
    if device.type != "cuda":
        return run
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # libraries set themselves up, which no graph may hold
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()

    def replay() -> Any:
        graph.replay()
        return results, run  # which holds the tensors that the graph reads

    return replay


def reference_of(side: str, ours: str) -> str:
    """The side that a ratio is against: a captured or compiled one against ours, captured or compiled."""
    return ours + next((kind for kind in (CAPTURED, COMPILED) if side.endswith(kind)), "")


def ceilings(device: torch.device) -> dict[str, float]:
    """What a GPU does at most, as torch gets it: a large float16 product, a large copy. Empty on a CPU."""
    if device.type != "cuda":
        return {}
    square = torch.randn(8192, 8192, device=device, dtype=torch.float16)
    block = torch.randn(2**28, device=device)
    other = torch.empty_like(block)
    runs = {"product": lambda: square @ square, "copy": lambda: other.copy_(block)}
    seconds = {name: float(np.median(taken)) for name, taken in time_in_turn(runs, rounds=11, device=device).items()}
    return {
        "float16 FLOP/s": 2 * 8192**3 / seconds["product"],
        "bytes/s": 2 * block.numel() * block.element_size() / seconds["copy"],
    }


def peak_memory(build: Callable[..., Callable[[], Any]], *args: Any, device: torch.device) -> int | None:
    """Peak bytes of `build(*args)()` above what was in use when it was called; None where it ran out of memory.

    On CUDA by the allocator's own count; on the CPU by the operating system's, of the second call in a process of its
    own.
    """
    if device.type == "cuda":
        run = build(*args)
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        try:
            run()
        except torch.cuda.OutOfMemoryError:
            return None
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, torch.get_num_threads(), build, args))
    process.start()
    sender.close()
    try:
        peak = receiver.recv()
    except EOFError:  # killed, for memory most likely
        peak = None
    process.join()
    return peak


def _measure(sender: Any, threads: int, build: Callable[..., Callable[[], Any]], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(threads)
    run = build(*args)
    run()  # what libraries load and set up at their first call is no cost of the work
    _return_free_memory()
    # Building the inputs left a peak of its own, which hides a lower one: Linux can reset it.
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        run()
        peak = _status("VmHWM")
    except (OSError, KeyError):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        run()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sender.send(max(0, peak - before))


def _return_free_memory() -> None:
    """To the system, which glibc does when asked: memory that the first call left would be used unseen."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def exponent(sizes: Sequence[float], amounts: Sequence[float]) -> tuple[float, float, float]:
    """The power of the sizes with which amounts grow, by least squares of the logarithms, and its 95 % interval."""
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(amounts, float))
    x, y = x - x.mean(), y - y.mean()
    slope = float((x * y).sum() / (x * x).sum())
    spread = float(np.sqrt(((y - slope * x) ** 2).sum() / max(1, len(x) - 2) / (x * x).sum()))
    return slope, slope - 2.0 * spread, slope + 2.0 * spread


def relative_error(result: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest error relative to the largest expected entry."""
    return float((result - expected).abs().max() / expected.abs().max())


def save(name: str, cases: Sequence[Case], **where_and_how: Any) -> Path:
    """Writes what a run measured; device, folder and settings as :func:`save_record` has them."""
    return save_record(name, {"cases": [asdict(case) for case in cases]}, **where_and_how)


def human_bytes(count: int | None) -> str:
    return "out of memory" if count is None else f"{count / 2**20:,.0f} MiB"
