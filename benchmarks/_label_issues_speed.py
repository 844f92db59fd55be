"""Seconds and peak memory of both tools on many images of 240 x 180 and 11 classes, each in a process of its own.

Eight made-up images are repeated. cleanlab takes arrays of all of them, which are made before its clock starts;
`label_issues` reads one at a time, and its results are dropped as they come.
"""

from __future__ import annotations

import importlib.util
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

CLASSES, HEIGHT, WIDTH, DIFFERENT, KEYS = 11, 180, 240, 8, 304


def results(counts: list[int]) -> list[dict[str, Any]]:
    """Every tool at every number of images; seconds of the clock and of the processor, peak resident MiB."""
    found = []
    for count in counts:
        for name in SIDES:
            if name.startswith("cleanlab") and importlib.util.find_spec("cleanlab") is None:
                continue
            done = subprocess.run([sys.executable, __file__, name, str(count)], capture_output=True, text=True)
            if done.returncode:  # running out of memory is a result
                measured: dict[str, Any] = {"failed": done.stderr.strip().splitlines()[-1:]}
            else:
                measured = json.loads(done.stdout.splitlines()[-1])
            found.append({"side": name, "images": count} | measured)
            print(found[-1], flush=True)
    return found


def images() -> tuple[np.ndarray, ...]:
    """Labels, probabilities, pictures and keys of the few that are repeated; a tenth of the labels in blocks wrong."""
    rng = np.random.default_rng(0)
    shape = DIFFERENT, HEIGHT // 20, WIDTH // 20
    truth = rng.integers(0, CLASSES, shape)
    given = np.where(rng.random(shape) < 0.1, rng.integers(0, CLASSES, shape), truth)
    truth, given = (each.repeat(20, 1).repeat(20, 2) for each in (truth, given))
    scores = rng.random((DIFFERENT, CLASSES, HEIGHT, WIDTH), dtype=np.float32)
    scores += 4 * (np.arange(CLASSES)[:, None, None] == truth[:, None])
    probabilities = np.exp(scores)
    probabilities /= probabilities.sum(1, keepdims=True)
    pictures = (truth[:, None] * 20 + rng.integers(0, 20, (DIFFERENT, 3, HEIGHT, WIDTH))).astype(np.uint8)
    directions = rng.standard_normal((CLASSES, KEYS), dtype=np.float32)
    keys = directions[truth[:, ::4, ::4]].transpose(0, 3, 1, 2)
    keys = keys + rng.standard_normal(keys.shape, dtype=np.float32)
    return given.astype(np.uint8), probabilities, pictures, keys


def cleanlab(count: int, n_jobs: int | None) -> Callable[[], None]:
    from cleanlab.segmentation.filter import find_label_issues
    from cleanlab.segmentation.rank import get_label_quality_scores

    labels, probabilities, _, _ = images()
    whole = np.empty((count, *probabilities.shape[1:]), dtype=np.float32)
    for place in range(count):
        whole[place] = probabilities[place % DIFFERENT]
    all_labels = labels[np.arange(count) % DIFFERENT].astype(np.int64)

    def run() -> None:
        find_label_issues(all_labels, whole, n_jobs=n_jobs, verbose=False)
        get_label_quality_scores(all_labels, whole, verbose=False)

    return run


def ours(count: int, *, with_images: bool = True, with_features: bool = False) -> Callable[[], None]:
    import torch

    from graphcorrect import label_issues

    torch.set_num_threads(1)
    labels, probabilities, pictures, keys = images()

    def repeated(values: np.ndarray) -> Callable[[], Iterator[np.ndarray]]:
        return lambda: (values[place % DIFFERENT] for place in range(count))

    def run() -> None:
        colors = repeated(pictures) if with_images else None
        features = repeated(keys) if with_features else None
        found = label_issues(repeated(labels), repeated(probabilities), colors, features=features)
        for _ in found:
            pass

    return run


SIDES: dict[str, Callable[[int], Callable[[], None]]] = {
    "label_issues": lambda count: ours(count, with_images=False),
    "label_issues, images": ours,
    "label_issues, images, features": lambda count: ours(count, with_features=True),
    "cleanlab, n_jobs=1": lambda count: cleanlab(count, 1),
    "cleanlab": lambda count: cleanlab(count, None),
}


def measure(name: str, count: int) -> dict[str, float]:
    """In this process: one run on two images, for what is imported and compiled, then the timed one."""
    SIDES[name](2)()
    run = SIDES[name](count)
    start, before = time.perf_counter(), _processor_seconds()
    run()
    seconds, busy = time.perf_counter() - start, _processor_seconds() - before
    return {"seconds": seconds, "processor_seconds": busy, "peak_mib": _peak_mib()}


def _peak_mib() -> float:
    """Of this process; getrusage would report that of whoever started it, where that was larger."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM"))


def _processor_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
