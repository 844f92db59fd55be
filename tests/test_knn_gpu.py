"""The triton backend on a GPU, against float64; its kernels pass the interpreter in test_knn_triton.py."""

import pytest
import torch
from knn_checks import features_of
from layer_checks import no_waiting

from graphcorrect.ops.knn import knn


@pytest.mark.gpu
@pytest.mark.parametrize("scoring", ["float16", "float32"])
@pytest.mark.parametrize(
    "size",
    # images, queries, keys, width, k
    [
        (1, 1, 2500, 33, 7),
        (1, 1000, 1000, 24, 20),
        (2, 70, 129, 300, 128),
        (2, 300, 3000, 352, 60),
        (2, 4225, 4225, 256, 20),
        (1, 9000, 9000, 64, 24),
    ],
)
def test_on_the_gpu_as_in_float64(scoring, size):
    batch, num_queries, num_keys, width, num_neighbors = size
    queries = features_of(batch, num_queries, width, seed=1).cuda()
    keys = None if num_queries == num_keys else features_of(batch, num_keys, width, seed=2).cuda()
    mask = None if num_neighbors == 128 else torch.rand(batch, num_keys, device="cuda") < 0.9
    options = {"exclude_self": keys is None, "key_mask": mask}
    found = knn(queries, keys, num_neighbors, backend="triton", scoring=scoring, **options)
    unit = torch.nn.functional.normalize(queries.double(), dim=-1)
    unit_keys = unit if keys is None else torch.nn.functional.normalize(keys.double(), dim=-1)
    scores = unit @ unit_keys.mT
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], -torch.inf)
    if keys is None:
        scores.diagonal(dim1=-2, dim2=-1).fill_(-torch.inf)
    best = scores.topk(num_neighbors).values
    torch.testing.assert_close(found.similarity.double(), best, rtol=0, atol=5e-6)
    torch.testing.assert_close(scores.gather(-1, found.index), best, rtol=0, atol=5e-6)
    ordered = found.index.sort(-1).values
    assert (ordered[..., 1:] > ordered[..., :-1]).all()


@pytest.mark.gpu
def test_ties_and_what_is_not_finite_are_searched_again_on_the_gpu():
    features = torch.nn.functional.normalize(1 + 1e-2 * features_of(3, 700, 64), dim=-1).cuda()
    features[:, 300:400] = features[:, :1]  # more ties than there is room for
    features[2, 5, 3] = torch.nan
    found = knn(features, None, 20, backend="triton", exclude_self=True)
    exact = knn(features, None, 20, backend="triton", scoring="float32", exclude_self=True)
    torch.testing.assert_close(found.similarity, exact.similarity, rtol=0, atol=1e-6, equal_nan=True)


@pytest.mark.gpu
def test_the_gpu_is_not_waited_for_and_can_be_captured():
    features = features_of(2, 1089, 64).cuda()
    expected = knn(features, None, 20, backend="triton", exclude_self=True)
    with no_waiting():
        knn(features, None, 20, backend="triton", exclude_self=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = knn(features, None, 20, backend="triton", exclude_self=True)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(found.index, expected.index)


@pytest.mark.gpu
def test_memory_on_the_gpu_is_linear():
    def peak(num_nodes):
        features = features_of(1, num_nodes, 64).cuda()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        knn(features, None, 20, backend="triton", exclude_self=True)
        return torch.cuda.max_memory_allocated() - before

    assert peak(40000) < 1.2 * 2 * peak(20000)
