"""Files that are never half a file, and everything that an exact continuation needs.

A run can be killed at any instant: what it saved last is whole, and from there it does what it would have done.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


def save(content: Any, path: Path) -> None:
    """`torch.save`, atomically: readers see the old file or the new one, never a part."""
    _replace(path, lambda file: torch.save(content, file))


def write_atomically(path: Path, content: bytes) -> None:
    """The same for bytes."""
    _replace(path, lambda file: file.write(content))


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """A checkpoint; tensors and plain values only, so that opening one runs no code of whoever wrote it."""
    if not path.is_file():
        raise ValueError(f"expected a checkpoint, got {str(path)!r}, which is no file")
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch has a type for every way in which a file can be wrong
        raise ValueError(f"expected a checkpoint of this trainer, got {str(path)!r}: {error}") from error


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


def _replace(path: Path, write: Callable[[Any], Any]) -> None:
    """Write beside `path`, wait for the disk, and move it there; a failure leaves `path` as it was.

    Raises:
        OSError: the file could not be written, say because the disk is full; the message says what is still there.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        # The new name must survive a power cut too.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, RuntimeError) as error:  # torch says RuntimeError when the file below it fails
        partial.unlink(missing_ok=True)
        kept = "what it held before is still there" if path.exists() else "there was no such file before"
        raise OSError(f"could not save {path}: {error}; {kept}") from error
