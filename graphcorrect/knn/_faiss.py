"""Exact search by faiss: `faiss.knn` on the CPU, `faiss.knn_gpu` on CUDA, one image after the other.

faiss is imported when it is used. Its GPU build is tried once in a process of its own before it may touch this one:
a wheel without the card's kernels does not raise, it aborts.
"""

import functools
import importlib.util
import subprocess
import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

_GPU_PROBE = """
import torch, faiss, faiss.contrib.torch_utils
rows = torch.randn(64, 16, device="cuda")
similarity, index = faiss.knn_gpu(faiss.StandardGpuResources(), rows, rows, 1, metric=faiss.METRIC_L2)
assert (index[:, 0].cpu() == torch.arange(64)).all()
"""
_TEMP_MEMORY = 64 * 2**20  # bytes; faiss reserves 1.5 GiB a device unless told


def is_installed() -> bool:
    return importlib.util.find_spec("faiss") is not None


def version() -> str:
    return str(_import().__version__)


def search(
    queries: Tensor, keys: Tensor, num_neighbors: int, *, exclude_self: bool, key_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Finds the keys of largest inner product for queries (B, N, D) among keys (B, M, D): similarity, index (B, N, k).

    Computed in float32 whatever the dtype: faiss knows no other. Keys outside `key_mask` are left out of the problem
    that faiss sees, which waits for the device.
    """
    faiss = _import()
    batch, num_queries, _ = queries.shape
    similarity = queries.new_full((batch, num_queries, num_neighbors), -torch.inf)
    index = torch.zeros(batch, num_queries, num_neighbors, dtype=torch.int64, device=queries.device)
    for image in range(batch):
        places = None if key_mask is None else key_mask[image].nonzero()[:, 0]
        candidates = keys[image] if places is None else keys[image][places]
        # One more than asked for, so that k remain when a node finds itself
        wanted = min(num_neighbors + int(exclude_self), len(candidates))
        if wanted == 0:
            continue
        run = _search_cuda if queries.is_cuda else _search_cpu
        values, found = run(faiss, queries[image].float().contiguous(), candidates.float().contiguous(), wanted)
        # faiss answers -1 where it found nothing, as for a query of NaN
        values = values.masked_fill(found < 0, -torch.inf)
        found = found.clamp_min(0)
        found = found if places is None else places[found]
        if exclude_self:
            values, found = _drop_self(values, found)
        kept = min(num_neighbors, values.shape[1])
        similarity[image, :, :kept] = values[:, :kept].to(similarity.dtype)
        index[image, :, :kept] = found[:, :kept]
    return similarity, index


def _drop_self(values: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """Moves each node's own entry to the end of its row, with similarity -inf.

    By its index, never by its place: among duplicates of a node it need not be the first, nor be there at all.
    """
    is_self = found == torch.arange(len(found), device=found.device)[:, None]
    order = is_self.to(torch.int8).argsort(dim=1, stable=True)
    return values.masked_fill(is_self, -torch.inf).gather(1, order), found.gather(1, order)


def _search_cpu(faiss: ModuleType, queries: Tensor, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    # numpy() shares the memory: nothing is copied on the way in
    values, found = faiss.knn(queries.numpy(), keys.numpy(), count, metric=faiss.METRIC_INNER_PRODUCT)
    return torch.from_numpy(values), torch.from_numpy(found)


def _search_cuda(faiss: ModuleType, queries: Tensor, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    _require_working_gpu()
    from faiss.contrib import torch_utils

    resources = _resources(queries.device.index)
    # On the caller's device and stream: on its own stream faiss may read queries that are not written yet.
    with torch.cuda.device(queries.device), torch_utils.using_stream(resources):
        values, found = faiss.knn_gpu(
            resources, queries, keys, count, metric=faiss.METRIC_INNER_PRODUCT, device=queries.device.index
        )
    return values, found


@functools.cache
def _resources(device_index: int) -> Any:
    resources = _import().StandardGpuResources()
    resources.setTempMemory(_TEMP_MEMORY)
    return resources


def _import() -> ModuleType:
    if not is_installed():
        raise ImportError('backend="faiss" needs faiss: pip install "graphcorrect[faiss]" (or [faiss-gpu] for CUDA)')
    import faiss

    module: ModuleType = faiss
    return module


@functools.cache
def gpu_works() -> bool:
    """Whether faiss searches on this machine's GPU, tried once, in a process of its own."""
    if not is_installed() or not hasattr(_import(), "knn_gpu") or not hasattr(_import(), "StandardGpuResources"):
        return False
    return subprocess.run([sys.executable, "-c", _GPU_PROBE], capture_output=True, check=False).returncode == 0


def _require_working_gpu() -> None:
    if not gpu_works():
        raise ImportError(
            'backend="faiss" on a CUDA tensor needs a faiss with kernels for this GPU: pip install '
            '"graphcorrect[faiss-gpu]", or use backend="torch"'
        )
