"""How Triton's kernels are launched: on the device of their tensors; and those that take rows, a few a program."""

from typing import Any

import torch
import triton  # type: ignore[import-untyped,import-not-found,unused-ignore]
from torch import Tensor


def launch(kernel: triton.JITFunction, grid: tuple[int, ...], *arguments: Any, **settings: Any) -> None:
    """Runs a kernel on the device of its first argument, be it the current one or not."""
    with torch.cuda.device_of(arguments[0]):  # type: ignore[no-untyped-call]
        kernel[grid](*arguments, enable_fp_fusion=True, **settings)  # said, since triton 3.9 warns where it is not


def launch_rows(kernel: triton.JITFunction, like: Tensor, *arguments: Any, tile: int = 2048, **settings: Any) -> None:
    """Runs a kernel on rows such as those of `like` (..., W): as many a program as `tile` entries hold, or one."""
    width = like.shape[-1]
    num_rows, padded = like.numel() // width, triton.next_power_of_2(width)
    rows_each = max(1, tile // padded)
    grid = (triton.cdiv(num_rows, rows_each),)
    launch(kernel, grid, *arguments, num_rows, width, WIDTH=padded, ROWS=rows_each, **settings)
