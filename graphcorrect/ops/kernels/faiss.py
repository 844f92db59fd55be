"""Search by faiss, in float32: exact on the CPU and on CUDA, one image after the other; or approximate, by lists.

faiss is imported when it is used. Its GPU build is tried once in a process of its own before it may touch this one:
a wheel without the card's kernels does not raise, it aborts.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import subprocess
import sys
from typing import Any

import torch
from torch import Tensor

from graphcorrect.ops.search import Search
from graphcorrect.ops.unit_rows import compared_rows

_GPU_PROBE = """
import torch, faiss, faiss.contrib.torch_utils
rows = torch.randn(64, 16, device="cuda")
similarity, index = faiss.knn_gpu(faiss.StandardGpuResources(), rows, rows, 1, metric=faiss.METRIC_L2)
assert (index[:, 0].cpu() == torch.arange(64)).all()
"""
_TEMP_MEMORY = 64 * 2**20  # bytes; faiss reserves 1.5 GiB a device unless told
NUM_PROBES = 16  # lists that "faiss-ivf" looks into for a query
# Of the k-means that places their centers: faiss's own 10 and 256 take ten times as long, for a hundredth more recall
ITERATIONS, POINTS_PER_LIST = 4, 32


def is_installed() -> bool:
    """Whether faiss can be imported."""
    return importlib.util.find_spec("faiss") is not None


def serves(keys: Tensor) -> bool:
    """Whether such keys can be held in lists: faiss is installed, and they are on the CPU."""
    return is_installed() and keys.device.type == "cpu"


def require(asked: str = 'backend="faiss"', package: str = "faiss-cpu (or faiss-gpu for CUDA)") -> Any:
    """The module, or an ImportError with what was `asked` for and the line that installs it."""
    if not is_installed():
        raise ImportError(f"{asked} needs faiss: pip install {package}")
    return importlib.import_module("faiss")


def require_lists() -> Any:
    """The same for an index in lists, which lies on the CPU."""
    return require('index="ivf"', "faiss-cpu")


def version() -> str:
    """The version of faiss that is installed."""
    return str(require().__version__)


def search(call: Search) -> tuple[Tensor, Tensor]:
    """With backend "faiss-ivf" approximately, on the CPU, by an index that is built for this call.

    Keys outside the mask are left out of the problem that faiss sees, which waits for the device.
    """
    queries, num_neighbors = call.queries, call.num_neighbors
    find = _find_cuda if queries.is_cuda else _find_cpu
    if call.backend == "faiss-ivf":
        if queries.is_cuda:
            raise ValueError(f'expected `queries` on the CPU for backend="faiss-ivf", got {queries.device}')
        find = _find_in_lists
    batch, num_queries = queries.shape[:2]
    similarity, index = call.answer()
    similarity.fill_(-torch.inf)
    for image in range(batch):
        rows = compared_rows(queries[image], call.normalize).float()
        all_keys = rows if call.keys is None else compared_rows(call.keys[image], call.normalize).float()
        places = None if call.key_mask is None else call.key_mask[image].nonzero()[:, 0]
        candidates = all_keys if places is None else all_keys[places]
        # One more than asked for, so that k remain when a node finds itself
        wanted = min(num_neighbors + int(call.exclude_self), len(candidates))
        if wanted == 0 or num_queries == 0:
            continue
        values, found = find(rows, candidates, wanted)
        # faiss answers -1 where it found nothing, as for a query of NaN
        values = values.masked_fill(found < 0, -torch.inf)
        found = found.clamp_min(0)
        found = found if places is None else places[found]
        if call.exclude_self:
            values, found = _drop_self(values, found)
        kept = min(num_neighbors, values.shape[1])
        similarity[image, :, :kept] = values[:, :kept]
        index[image, :, :kept] = found[:, :kept]
    return similarity, index.masked_fill_(similarity == -torch.inf, 0)


def _drop_self(values: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """Moves each node's own entry to the end of its row, with similarity -inf.

    By its index, never by its place: among duplicates of a node it need not be the first, nor be there at all.
    """
    is_self = found == torch.arange(len(found), device=found.device)[:, None]
    order = is_self.to(torch.int8).argsort(dim=1, stable=True)
    return values.masked_fill(is_self, -torch.inf).gather(1, order), found.gather(1, order)


def _find_cpu(queries: Tensor, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    faiss = require()
    # numpy() shares the memory: nothing is copied on the way in
    values, found = faiss.knn(queries.numpy(), keys.numpy(), count, metric=faiss.METRIC_INNER_PRODUCT)
    return torch.from_numpy(values), torch.from_numpy(found)


def _find_cuda(queries: Tensor, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    faiss = require()
    _require_working_gpu()
    from faiss.contrib import torch_utils

    resources = _resources(queries.device.index)
    # On the caller's device and stream: on its own stream faiss may read queries that are not written yet.
    with torch.cuda.device(queries.device), torch_utils.using_stream(resources):
        values, found = faiss.knn_gpu(
            resources, queries, keys, count, metric=faiss.METRIC_INNER_PRODUCT, device=queries.device.index
        )
    return values, found


def _find_in_lists(queries: Tensor, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    require()
    return InvertedLists(keys, 0, half=False).search(queries, count, NUM_PROBES)


@functools.cache
def _resources(device_index: int) -> Any:
    resources = require().StandardGpuResources()
    resources.setTempMemory(_TEMP_MEMORY)
    return resources


@functools.cache
def gpu_works() -> bool:
    """Whether faiss searches on this machine's GPU, tried once, in a process of its own."""
    if not is_installed() or not hasattr(require(), "knn_gpu") or not hasattr(require(), "StandardGpuResources"):
        return False
    return subprocess.run([sys.executable, "-c", _GPU_PROBE], capture_output=True, check=False).returncode == 0


def _require_working_gpu() -> None:
    if not gpu_works():
        raise ImportError(
            'backend="faiss" on a CUDA tensor needs a faiss with kernels for this GPU: pip install '
            'faiss-gpu, or use backend="torch"'
        )


class InvertedLists:
    """Keys to search by inner product, each in the list of its nearest center, of which a query reads a few (IVF).

    On the CPU: a GPU searches a million keys exactly in less time than the copies would take.

    Args:
        keys: (M, D) unit rows on the CPU.
        num_lists: centers, found by k-means; 0 for about 4 √M.
        half: True keeps keys in half precision, which are read in three quarters of the time and found as well;
            similarities are then right to a thousandth.
    """

    def __init__(self, keys: Tensor, num_lists: int, *, half: bool = True) -> None:
        faiss = require_lists()
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
        parameters = require_lists().SearchParametersIVF(nprobe=min(num_probes, self.num_lists))
        rows = queries.float().contiguous().numpy()
        found = self._index.search(rows, num_neighbors, params=parameters)
        similarity, index = (torch.from_numpy(each) for each in found)
        is_found = index >= 0
        return similarity.masked_fill(~is_found, -torch.inf).to(queries.dtype), index.where(is_found, 0)
