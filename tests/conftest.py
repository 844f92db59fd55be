"""Hypothesis profiles, seeds, threads, and the `gpu` mark."""

import importlib.util
import os

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch.utils._python_dispatch import TorchDispatchMode

from graphcorrect.ops._dispatch import numba_refuses, without

settings.register_profile(
    "quick", max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", max_examples=300, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else torch's deterministic mode refuses cuBLAS
torch.set_num_threads(1)  # small tensors: a second thread costs five times the time on shared cores
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the same for the scripts that tests of several workers start


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs a CUDA device")


def pytest_collection_modifyitems(items):
    has_gpu, has_faiss = torch.cuda.is_available(), importlib.util.find_spec("faiss") is not None
    for item in items:
        if "gpu" in item.keywords and not has_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if "faiss" in item.name.partition("[")[2] and not has_faiss:  # the parameter of a test that runs for others too
            item.add_marker(pytest.mark.skip(reason="needs faiss"))


@pytest.fixture(autouse=True)
def fixed_seed():
    """Every test starts from the same random state, whichever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of images, masks and labeled ones, among models that `graphcorrect refine` finds: see refine_photos."""
    from refine_photos import HERE, photos_in

    monkeypatch.chdir(HERE)
    return photos_in(tmp_path)


@pytest.fixture
def folders(tmp_path):
    """Folders of saved predictions: see saved_predictions."""
    from saved_predictions import folders_in

    return folders_in(tmp_path)


@pytest.fixture(params=["numba", "torch alone"])
def loops(request):
    """A test with the loops that numba compiles, and again without."""
    if request.param == "numba":
        if numba_refuses() is not None:
            pytest.skip(numba_refuses())
        yield request.param
    else:
        with without("numba"):
            yield request.param


class _LargestTensor(TorchDispatchMode):
    """Remembers the number of entries of the largest tensor that any operation returned."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            # an expanded view takes no memory: count what is stored
            if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:
                self.entries = max(self.entries, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.fixture
def largest_tensor():
    """A context manager; its `entries` say how large a tensor the code inside has made."""
    return _LargestTensor
