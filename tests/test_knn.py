"""Every backend against a full sort in float64; ties are compared by similarity, since any order of them is right."""

import types

import pytest
import torch
from hypothesis import given
from knn_checks import check, full_sort
from strategies import features_strategy, identical_features, orthogonal_clusters, random_features

from graphcorrect.ops import _dispatch
from graphcorrect.ops import neighbors as search
from graphcorrect.ops.knn import knn

BACKENDS = ["torch", "faiss", "auto"]


@pytest.fixture(params=BACKENDS)
def backend(request):
    if request.param == "faiss":
        pytest.importorskip("faiss")
    return request.param


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("normalize", [True, False])
def test_queries_among_other_keys(backend, dtype, normalize):
    queries, keys = random_features(17, 8, seed=1, dtype=dtype), random_features(50, 8, seed=2, dtype=dtype)
    found = knn(queries, keys, 5, backend=backend, normalize=normalize)
    assert found.similarity.dtype == dtype
    check(found, queries, keys, 5, normalize=normalize, tolerance=1e-5 if normalize else 1e-4)


@pytest.mark.parametrize("num_neighbors", [0, 1, 3, 39])
def test_nodes_among_themselves_without_finding_themselves(backend, num_neighbors):
    features = random_features(40, 6)
    found = knn(features, None, num_neighbors, backend=backend, exclude_self=True)
    check(found, features, features, num_neighbors, exclude_self=True)
    assert (found.index != torch.arange(40)[:, None]).all()


def test_nodes_that_may_find_themselves_find_themselves_first(backend):
    found = knn(random_features(30, 6), None, 3, backend=backend)
    assert found.index[:, 0].tolist() == list(range(30))


def test_each_problem_of_a_batch_is_its_own(backend):
    queries, keys = random_features(2, 3, 9, 5, seed=1), random_features(2, 3, 20, 5, seed=2)
    found = knn(queries, keys, 4, backend=backend)
    assert found.index.shape == (2, 3, 9, 4)
    for a in range(2):
        for b in range(3):
            check(type(found)(*(field[a, b] for field in found)), queries[a, b], keys[a, b], 4)


def test_masked_keys_are_never_found(backend):
    features = random_features(2, 30, 6)
    mask = torch.rand(2, 30) < 0.5
    found = knn(features, None, 4, backend=backend, exclude_self=True, key_mask=mask)
    for b in range(2):
        one = type(found)(found.similarity[b], found.index[b])
        check(one, features[b], features[b], 4, exclude_self=True, key_mask=mask[b])


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_slots_that_no_key_can_fill_say_so(backend, kept):
    features = random_features(1, 8, 3)
    mask = torch.arange(8)[None] < kept
    found = knn(features, None, 4, backend=backend, exclude_self=True, key_mask=mask)
    one = type(found)(found.similarity[0], found.index[0])
    check(one, features[0], features[0], 4, exclude_self=True, key_mask=mask[0])


@given(features_strategy(min_nodes=3))
def test_duplicates_zero_rows_and_ties(features):
    for backend in ("torch", "auto"):
        check(knn(features, None, 2, backend=backend, exclude_self=True), features, features, 2, exclude_self=True)


def test_a_duplicate_is_a_neighbor_and_the_node_itself_is_not(backend):
    features = random_features(10, 4).repeat(3, 1)
    found = knn(features, None, 2, backend=backend, exclude_self=True)
    expected = [{(i + 10) % 30, (i + 20) % 30} for i in range(30)]
    assert [set(row) for row in found.index.tolist()] == expected


def test_among_identical_nodes_all_are_tied(backend):
    features = identical_features(12)
    check(knn(features, None, 5, backend=backend, exclude_self=True), features, features, 5, exclude_self=True)


def test_orthogonal_clusters_find_their_own(backend):
    features, labels = orthogonal_clusters(4, 6)
    found = knn(features, None, 5, backend=backend, exclude_self=True)
    assert (labels[found.index] == labels[:, None]).all()


@pytest.mark.parametrize("memory_budget", [1, 5000, 40_000, 2**26])
def test_tile_size_changes_nothing(memory_budget):
    features = random_features(3, 150, 8)
    small = knn(features, None, 2, backend="torch", exclude_self=True, memory_budget=memory_budget)
    large = knn(features, None, 2, backend="torch", exclude_self=True)
    assert torch.equal(small.index, large.index)
    torch.testing.assert_close(small.similarity, large.similarity)


@pytest.mark.parametrize("num_keys", [31, 32, 33, 64, 257, 1000])
def test_sizes_around_the_groups_of_columns(num_keys):
    queries, keys = random_features(9, 7, seed=1), random_features(num_keys, 7, seed=2)
    for num_neighbors in (1, 3, 20):
        check(knn(queries, keys, num_neighbors, backend="torch"), queries, keys, num_neighbors, tolerance=1e-12)


def test_a_tied_maximum_in_many_groups_is_still_exact():
    keys = identical_features(640, 3)
    keys[::40] *= -1
    check(knn(keys[:5], keys, 6, backend="torch"), keys[:5], keys, 6)


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_scaling_features_changes_no_cosine(backend, scale):
    features = random_features(20, 5, dtype=torch.float32)
    scaled = knn(features * scale, None, 3, backend=backend, exclude_self=True)
    check(scaled, features, features, 3, exclude_self=True, tolerance=1e-5)


def test_half_precision_is_searched_in_float32(backend):
    features = random_features(40, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = knn(features, None, 3, backend=backend, exclude_self=True)
    assert found.similarity.dtype == torch.bfloat16
    claimed = full_sort(features.double(), features.double(), 3, exclude_self=True)
    torch.testing.assert_close(claimed[1].gather(1, found.index), claimed[0], rtol=0, atol=1e-6)


def test_a_nan_stays_in_its_image_and_indices_stay_in_range(backend):
    features = random_features(3, 16, 4)
    broken = features.clone()
    broken[1, 5, 2] = torch.nan
    found = knn(broken, None, 3, backend=backend, exclude_self=True)
    whole = knn(features, None, 3, backend=backend, exclude_self=True)
    assert ((found.index >= 0) & (found.index < 16)).all()
    assert torch.equal(found.index[[0, 2]], whole.index[[0, 2]])
    torch.testing.assert_close(found.similarity[[0, 2]], whole.similarity[[0, 2]])


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (0, 0, 3), (2, 1, 3)])
def test_empty_problems_give_empty_answers(backend, shape):
    found = knn(torch.zeros(shape), None, 0, backend=backend, exclude_self=True)
    assert found.index.shape == (*shape[:2], 0)


def test_the_search_leaves_its_inputs_alone_and_carries_no_gradient(backend):
    features = random_features(20, 5).requires_grad_()
    before = features.detach().clone()
    found = knn(features, None, 3, backend=backend, normalize=False, exclude_self=True)
    assert not found.similarity.requires_grad
    assert torch.equal(features.detach(), before)


@pytest.mark.gpu
@pytest.mark.parametrize("num_nodes", [100, 4096])
def test_on_the_gpu_as_on_the_cpu(num_nodes):
    features = random_features(2, num_nodes, 16, dtype=torch.float32)
    here = knn(features, None, 20, exclude_self=True)
    there = knn(features.cuda(), None, 20, exclude_self=True)
    torch.testing.assert_close(there.similarity.cpu(), here.similarity, rtol=1e-4, atol=1e-4)


def test_no_keys_under_a_mask_are_found_by_nobody():
    found = knn(torch.ones(2, 3, 4), torch.ones(2, 0, 4), 0, key_mask=torch.ones(2, 0, dtype=torch.bool))
    assert found.similarity.shape == found.index.shape == (2, 3, 0)


@pytest.mark.parametrize(
    ("capability", "dtype", "num_neighbors", "triton", "expected"),
    [
        ((9, 0), torch.float32, 20, True, "triton"),
        ((10, 0), torch.bfloat16, 60, True, "triton"),
        ((9, 0), torch.float64, 20, True, "torch"),
        ((9, 0), torch.float32, 61, True, "torch"),
        ((9, 0), torch.float32, 20, False, "torch"),
        ((8, 6), torch.float32, 20, True, "torch"),
        ((12, 0), torch.float32, 20, True, "torch"),
    ],
)
def test_on_a_gpu_auto_is_triton_where_it_serves_and_was_timed(
    monkeypatch, capability, dtype, num_neighbors, triton, expected
):
    monkeypatch.setattr(search, "triton_is_missing", lambda: None if triton else "it is not installed")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    queries = types.SimpleNamespace(device=torch.device("cuda"), dtype=dtype, shape=(1000, 64))
    settings = (queries, None, None, num_neighbors, True, True)
    assert search.NEIGHBORS.explain(*settings, "auto")[0] == expected
    assert search.NEIGHBORS.explain(*settings, "faiss")[0] == "faiss"


def test_auto_leaves_to_triton_what_triton_filters():
    pytest.importorskip("triton")
    from graphcorrect.ops.kernels.cuda import topk_filter

    assert search.MAX_TRITON_NEIGHBORS == topk_filter.MAX_NEIGHBORS


@pytest.mark.parametrize(("capability", "installed", "expected"), [("AVX2", True, "faiss"), ("AVX2", False, "torch")])
def test_on_a_processor_with_avx2_alone_auto_is_faiss_where_it_is_installed(
    monkeypatch, capability, installed, expected
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(search.faiss, "is_installed", lambda: installed)
    fast_dtypes = search.filtered_search.fast_dtypes
    fast_dtypes.cache_clear()
    try:
        serving, reasons = search.NEIGHBORS.explain(torch.zeros(2, 1000, 64))
        assert serving == expected
        assert ("pip install" in reasons.get("faiss", "")) == (not installed)
        assert search.NEIGHBORS.explain(torch.zeros(2, 1000, 64, dtype=torch.float64))[0] == "torch"
        assert "float32" in search.NEIGHBORS.explain(torch.zeros(2, 1000, 64, dtype=torch.float64))[1]["quantized"]
    finally:
        fast_dtypes.cache_clear()


def test_triton_counts_as_there_with_a_compiler_alone(monkeypatch):
    missing = _dispatch.triton_is_missing.__wrapped__
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "C compiler" in missing()
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/cc" if name == "cc" else None)
    assert missing() is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install" in missing()


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("num_keys", [40, 900])
def test_prepared_keys_are_found_as_others_are(normalize, num_keys):
    queries, keys = random_features(150, 40, dtype=torch.float32), random_features(num_keys, 40, seed=1).float()
    mask = torch.rand(num_keys) < 0.7
    prepared = search.prepare(keys, mask, normalize=normalize)
    found = knn(queries, prepared, 4, normalize=normalize)
    check(found, queries, keys, 4, tolerance=1e-5, normalize=normalize, key_mask=mask)
    for scoring in ("int8", "bfloat16"):
        other = knn(queries, prepared, 4, normalize=normalize, scoring=scoring)
        torch.testing.assert_close(other.similarity, found.similarity)
    arguments = (queries, prepared.rows, None, 4, False, normalize, "auto", "auto", None, list(prepared.quantized))
    torch.library.opcheck(search.neighbors, arguments, test_utils=("test_schema", "test_faketensor"))
    keys.zero_()  # what was prepared is a copy
    assert torch.equal(knn(queries, prepared, 4, normalize=normalize).index, found.index)
    with pytest.raises(ValueError, match="with prepared keys"):
        knn(queries, prepared, 4, key_mask=mask)


def test_an_inverted_file_finds_nearly_all():
    pytest.importorskip("faiss")
    keys = torch.nn.functional.normalize(random_features(5000, 8, dtype=torch.float32), dim=1)
    queries = keys[::50]
    found = knn(queries, keys, 10, backend="faiss-ivf")
    exact = knn(queries, keys, 10)
    recall = (found.similarity >= exact.similarity[:, -1:] - 1e-6).float().mean()
    assert recall > 0.9
    claimed = (queries @ keys.T).gather(1, found.index)
    torch.testing.assert_close(claimed, found.similarity, rtol=0, atol=1e-5)
    own = knn(keys, None, 3, backend="faiss-ivf", exclude_self=True)
    assert (own.index != torch.arange(5000)[:, None]).all()


def test_without_faiss_a_named_search_by_it_is_refused(monkeypatch):
    monkeypatch.setattr(search.faiss, "is_installed", lambda: False)
    for name in ("faiss", "faiss-ivf"):
        with pytest.raises(ImportError, match="pip install"):
            knn(random_features(5, 4), None, 2, backend=name)
