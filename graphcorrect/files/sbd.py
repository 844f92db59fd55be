"""SBD's masks, which MATLAB has written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def read_mat(path: Path) -> NDArray[np.uint8]:
    """Class ids (H, W) uint8 of a mask of SBD, the variable GTcls.

    Raises:
        ValueError: it holds something else.
        ImportError: SciPy is not installed.
    """
    from scipy.io import loadmat

    found = loadmat(path)
    if "GTcls" not in found:
        names = ", ".join(name for name in found if not name.startswith("_"))
        raise ValueError(f"expected the variable GTcls, as SBD has it, got {names or 'none'}")
    ids = np.asarray(found["GTcls"]["Segmentation"][0, 0])
    if ids.ndim != 2 or ids.dtype.kind not in "uif" or ids.size == 0:
        raise ValueError(f"expected GTcls.Segmentation as a matrix of ids, got {ids.dtype} of shape {ids.shape}")
    if ids.min() < 0 or ids.max() > 255 or (ids != np.floor(ids)).any():
        raise ValueError(f"expected ids from 0 to 255, got {ids.min()} to {ids.max()}")
    return ids.astype(np.uint8)
