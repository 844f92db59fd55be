"""The device that a user names, tried before any work: one that this machine lacks is refused in one line."""

from __future__ import annotations

import os

import torch

from graphcorrect.files.faults import words

KINDS = ("cpu", "cuda", "mps", "xpu")


def find_device(name: str, option: str = "--device") -> torch.device:
    """`auto` (cuda if there is one), or a device by torch's name, such as `cuda:1`.

    Each process that `torchrun` starts takes a GPU of its own where the name says none.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        name = _gpu_of_this_process(name, option)
    elif name == "auto":
        return torch.device("cpu")
    try:
        found = torch.device(name)
        if found.type not in KINDS:
            raise ValueError(f"is none of {', '.join(KINDS)}")
        torch.ones(1, device=found).sum().item()  # what is there and does not work says so here
    except Exception as error:  # RuntimeError, AssertionError, ...: torch has a type for each way to lack one
        raise ValueError(
            f"expected {option} to be one of {', '.join(there_are())}, got {name!r}, which this machine does not have "
            f"({words(error)})"
        ) from error
    return found


def _gpu_of_this_process(name: str, option: str) -> str:
    """`cuda`, or `cuda:N` of the N-th process that `torchrun` has started on this machine."""
    rank, count = os.environ.get("LOCAL_RANK", ""), torch.cuda.device_count()
    if not rank.isdecimal():
        return "cuda"
    if int(rank) >= count:
        raise ValueError(
            f"expected {option} with a GPU for each process of torchrun, got {name!r} in process {int(rank) + 1} on a "
            f"machine that has {count}; start as many, or name a device"
        )
    return f"cuda:{int(rank)}"


def there_are() -> list[str]:
    """The devices of this machine by torch's names."""
    found = ["auto", "cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, *(["xpu"] if hasattr(torch, "xpu") and torch.xpu.is_available() else [])]
