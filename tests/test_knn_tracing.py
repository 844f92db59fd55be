"""The search as torch's compilers and tracers see it: one operator, of which they are told the truth."""

import pytest
import torch
from layer_checks import compiles
from strategies import random_features

from graphcorrect.ops import neighbors as search
from graphcorrect.ops.knn import knn


@compiles
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scoring", ["auto", "bfloat16"])
@pytest.mark.parametrize("backend", ["torch", "faiss", "auto"])
def test_a_compiler_takes_the_whole_search_as_one_step_of_any_size(backend, scoring):
    if backend == "faiss" and scoring != "auto":
        pytest.skip("faiss knows no quantized scores")
    graphs = []

    def keep(graph, inputs):
        graphs.append([str(node.target) for node in graph.graph.nodes if node.op == "call_function"])
        return graph

    def search_of(queries):
        return knn(queries, None, 5, backend=backend, scoring=scoring, exclude_self=True)

    torch._dynamo.reset()
    compiled = torch.compile(search_of, backend=keep, fullgraph=True, dynamic=True)
    for num_nodes in (300, 417):
        rows = random_features(2, num_nodes, 64, seed=num_nodes, dtype=torch.float32)
        found, expected = compiled(rows), search_of(rows)
        torch.testing.assert_close(found.similarity, expected.similarity)
        assert torch.equal(found.index, expected.index)
    (steps,) = graphs
    assert [step for step in steps if step.startswith("graphcorrect.neighbors")]
    assert not [step for step in steps if "matmul" in step or "topk" in step]


LAYOUTS = {
    "dense": lambda rows: rows,
    "permuted": lambda rows: rows.mT.contiguous().mT,
    "strided": lambda rows: rows.repeat_interleave(2, -1)[..., ::2],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("keys", [None, (2, 50, 16)], ids=["among themselves", "other keys"])
def test_what_torch_is_told_of_the_search_is_true(keys, layout, dtype):
    queries = LAYOUTS[layout](random_features(2, 40, 16, dtype=dtype))
    keys = None if keys is None else LAYOUTS[layout](random_features(*keys, seed=1, dtype=dtype))
    mask = torch.rand(2, 40 if keys is None else 50) < 0.9
    for scoring in ("auto", "bfloat16"):
        arguments = (queries, keys, mask, 2, keys is None, True, "auto", scoring, 2**24, [])
        torch.library.opcheck(search.neighbors, arguments)


@pytest.mark.usefixtures("loops")
def test_no_result_shares_memory_with_an_argument():
    rows = torch.nn.functional.normalize(random_features(1, 200, 16, dtype=torch.float32), dim=-1)
    for backend in ("torch", "auto"):
        for normalize in (True, False):
            found = knn(rows, None, 2, backend=backend, normalize=normalize)
            memory = {part.untyped_storage().data_ptr() for part in found}
            assert len(memory | {rows.untyped_storage().data_ptr()}) == 3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("scoring", ["auto", "int8"])
def test_torch_sees_the_search_in_its_tracers(scoring):
    rows = random_features(200, 16, dtype=torch.float32)
    expected = knn(rows, None, 2, scoring=scoring, exclude_self=True)

    class Search(torch.nn.Module):
        def forward(self, rows):
            return tuple(knn(rows, None, 2, scoring=scoring, exclude_self=True))

    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    with FakeTensorMode() as mode:
        fake = Search()(mode.from_tensor(rows))
    assert [tuple(part.shape) for part in fake] == [(200, 2)] * 2
    assert [part.dtype for part in fake] == [torch.float32, torch.int64]
    for traced in (make_fx(Search())(rows), torch.export.export(Search(), (rows,)).module()):
        assert torch.equal(traced(rows)[1], expected.index)


@compiles
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("loops")
def test_inductor_compiles_what_surrounds_the_search():
    def weights(rows):
        found = knn(2 * rows, None, 2, exclude_self=True)
        return found.similarity.relu(), found.index + 1

    torch._dynamo.reset()
    rows = random_features(200, 16, dtype=torch.float32)
    for found, expected in zip(torch.compile(weights, fullgraph=True)(rows), weights(rows), strict=True):
        torch.testing.assert_close(found, expected)
