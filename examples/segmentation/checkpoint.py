"""Files that are never half a file, and everything that an exact continuation needs.

A run can be killed at any instant: what it saved last is whole, and from there it does what it would have done.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphcorrect.files.faults import check_archive, reading
from graphcorrect.files.saving import replace


def save(content: Any, path: Path) -> None:
    """`torch.save`, atomically: readers see the old file or the new one, never a part."""
    replace(path, lambda file: torch.save(content, file))


@contextlib.contextmanager
def alone_in(folder: Path, option: str = "--out") -> Iterator[None]:
    """Keep other processes that ask for the same from writing into a folder; drives that know no locks take any number.

    Raises:
        ValueError: another process has it; the message names the folder and `option`.
    """
    from filelock import FileLock, Timeout  # torch needs it too

    path = folder / ".lock"
    lock = FileLock(path, timeout=0)
    with contextlib.suppress(OSError, NotImplementedError):
        try:
            lock.acquire()
        except Timeout:
            raise ValueError(
                f"expected {option} to be a folder that no other run writes to, got {str(folder)!r}, which one is "
                "writing to now: wait for it or name another folder"
            ) from None
    try:
        yield
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):  # Windows removes no open file
                path.unlink()
            lock.release()


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """A checkpoint; tensors and plain values only, so that opening one runs no code of whoever wrote it.

    Raises:
        FileFault: it is no such file, or it is damaged; the message names it.
    """
    with reading(path, "a checkpoint of this trainer"):
        check_archive(path)
        content = torch.load(path, map_location=device, weights_only=True)
        if not isinstance(content, dict):
            raise ValueError(f"holds {type(content).__name__}")
        return content


def load_resume_point(out: Path, ranks: int) -> dict[str, Any] | None:
    """What the run in `out` goes on from, on the CPU; None if it has not come to its first checkpoint.

    Raises:
        ValueError: it is no such checkpoint, or one of another number of processes.
    """
    path = out / "resume.pt"
    if not os.path.lexists(path):
        return None
    saved = load(path)
    lacking = {"state", "random", "ranks", "log_bytes", "progress"} - saved.keys()
    if lacking:
        raise ValueError(f"expected {path} to be what a run goes on from, got one without {', '.join(sorted(lacking))}")
    if saved["ranks"] != ranks:
        raise ValueError(f"expected {saved['ranks']} processes, as the run began with, got {ranks}")
    return saved


def random_state() -> dict[str, Any]:
    """The state of every random generator of this process, as plain values and tensors."""
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 (what libraries share)
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put them back."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def seed_all(seed: int) -> None:
    """Seed every random generator of this process."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)
