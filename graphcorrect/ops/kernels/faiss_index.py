"""An approximate search by faiss: keys in lists around centers, of which a query reads the nearest few (IVF).

On the CPU: a GPU searches a million keys exactly in less time than the copies would take. faiss is imported when it is
used.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from typing import Any

import torch
from torch import Tensor

# Of the k-means that places the centers: faiss's own 10 and 256 take ten times as long, for a hundredth more recall
ITERATIONS, POINTS_PER_LIST = 4, 32


def require_installed() -> None:
    """Raises an ImportError with the install line where faiss is missing."""
    if importlib.util.find_spec("faiss") is None:
        raise ImportError('index="ivf" needs faiss: pip install faiss-cpu')


def serves(keys: Tensor) -> bool:
    """Whether such keys can be held in lists: faiss is installed, and they are on the CPU."""
    return importlib.util.find_spec("faiss") is not None and keys.device.type == "cpu"


def _faiss() -> Any:
    require_installed()
    return importlib.import_module("faiss")


class InvertedLists:
    """Keys to search by inner product, each in the list of its nearest center.

    Args:
        keys: (M, D) unit rows on the CPU.
        num_lists: centers, found by k-means; 0 for about 4 √M.
        half: True keeps keys in half precision, which are read in three quarters of the time and found as well;
            similarities are then right to a thousandth.
    """

    def __init__(self, keys: Tensor, num_lists: int, *, half: bool = True) -> None:
        faiss = _faiss()
        if keys.device.type != "cpu":
            raise ValueError(f'expected anchors on the CPU for index="ivf", got {keys.device}; "flat" serves there')
        self.num_lists = min(len(keys), num_lists or max(1, round(4 * math.sqrt(len(keys)))))
        rows = keys.float().contiguous().numpy()
        dim = rows.shape[1]
        # The one does not own the other, which has to live as long
        self._centers = faiss.IndexFlatIP(dim)
        metric, quantizer = faiss.METRIC_INNER_PRODUCT, faiss.ScalarQuantizer
        self._index: Any = (
            faiss.IndexIVFScalarQuantizer(self._centers, dim, self.num_lists, quantizer.QT_fp16, metric, False)
            if half
            else faiss.IndexIVFFlat(self._centers, dim, self.num_lists, metric)
        )
        self._index.cp.spherical = True
        self._index.cp.niter = ITERATIONS
        self._index.cp.min_points_per_centroid = 1  # no warning: small banks have small lists
        self._index.cp.max_points_per_centroid = POINTS_PER_LIST
        self._index.train(rows)
        self._index.add(rows)

    def search(self, queries: Tensor, num_neighbors: int, num_probes: int) -> tuple[Tensor, Tensor]:
        """The most similar keys of queries (N, D) in the `num_probes` nearest lists: similarity and index (N, k).

        Similarity is -inf, and the index 0, where these lists hold fewer.
        """
        parameters = _faiss().SearchParametersIVF(nprobe=min(num_probes, self.num_lists))
        rows = queries.float().contiguous().numpy()
        found = self._index.search(rows, num_neighbors, params=parameters)
        similarity, index = (torch.from_numpy(each) for each in found)
        is_found = index >= 0
        return similarity.masked_fill(~is_found, -torch.inf).to(queries.dtype), index.where(is_found, 0)
