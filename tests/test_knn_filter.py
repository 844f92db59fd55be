"""Quantized scores that filter the keys: the answer is that of float32 whatever the data, and the bound holds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from knn_checks import check, full_sort
from strategies import draw, random_features

from graphcorrect.ops.kernels.cpu import filtered_search
from graphcorrect.ops.kernels.cpu.quantized import quantize_keys, quantize_queries
from graphcorrect.ops.knn import knn

pytestmark = pytest.mark.usefixtures("loops")

DTYPES = {"int8": torch.int8, "bfloat16": torch.bfloat16}
NUM_KEYS = 700  # no whole number of groups


@pytest.fixture(params=DTYPES)
def scoring(request):
    return request.param


@pytest.fixture(autouse=True)
def _filters_small_images(monkeypatch):
    """Which are searched in full otherwise where more than a few keys are left."""
    monkeypatch.setattr(filtered_search, "MIN_CANDIDATES", 128)


def smooth(num_nodes=NUM_KEYS, dim=32, seed=0, noise=0.3):
    """Pixels of a field that varies slowly, as of a real feature map."""
    walk = random_features(num_nodes, dim, seed=seed).cumsum(0) / 4
    return (walk + noise * random_features(num_nodes, dim, seed=seed + 1)).float()


def clusters(spread):
    centers = random_features(5, 32, seed=3)
    labels = torch.randint(5, (NUM_KEYS,), generator=draw(4))
    return (centers[labels] + spread * random_features(NUM_KEYS, 32, seed=5)).float()


AWKWARD = {
    "smooth": smooth(),
    "noise": random_features(NUM_KEYS, 32).float(),
    "duplicates": smooth(100).repeat(7, 1),
    "all equal": torch.ones(NUM_KEYS, 32),
    "ties closer than any rounding": 1 + 1e-6 * random_features(NUM_KEYS, 32).float(),
    "tight clusters": clusters(1e-3),
    "loose clusters": clusters(0.3),
    "positive with much in common": 10 + random_features(NUM_KEYS, 32).float().relu(),
    "heavy tails": random_features(NUM_KEYS, 32).float() ** 9,
    "one entry a row": torch.eye(32)[torch.arange(NUM_KEYS) % 32] * torch.linspace(0.5, 2, NUM_KEYS)[:, None],
    "an outlier among the keys": torch.cat([smooth()[:-1], 1e4 * torch.ones(1, 32)]),
    "zero rows": smooth() * (torch.arange(NUM_KEYS) % 3 > 0)[:, None],
    "tiny": 1e-16 * smooth(),
    "huge": 1e17 * smooth(),
    "norms from tiny to huge": smooth() * torch.logspace(-12, 12, NUM_KEYS)[:, None],
}


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("features", AWKWARD.values(), ids=AWKWARD)
def test_the_answer_is_exact_whatever_the_data(scoring, features, normalize):
    size = 1.0 if normalize else features.double().norm(dim=1).amax().item() ** 2
    found = knn(features, None, 7, scoring=scoring, exclude_self=True, normalize=normalize)
    best, scores = full_sort(features.double(), features.double(), 7, exclude_self=True, normalize=normalize)
    # float32 rounds by so much of the norms, and normalizes by so much more
    row_size = torch.ones(NUM_KEYS, 1) if normalize else features.double().norm(dim=1, keepdim=True) * size**0.5
    claimed = scores.gather(1, found.index)
    assert ((found.similarity.double() - best).abs() <= 4e-6 * row_size).all()
    assert ((claimed - best).abs() <= 4e-6 * row_size).all()
    assert all(len(set(row)) == 7 for row in found.index.tolist())
    assert (found.index != torch.arange(NUM_KEYS)[:, None]).all()


@given(st.integers(0, 10**6), st.sampled_from(list(DTYPES)), st.floats(-6, 1), st.integers(1, 10))
def test_any_spread_of_clusters(seed, scoring, log_spread, num_neighbors):
    features = (random_features(NUM_KEYS, 16, seed=seed) * 10**log_spread).float()
    features += random_features(4, 16, seed=seed + 1).float()[torch.randint(4, (NUM_KEYS,), generator=draw(seed))]
    found = knn(features, None, num_neighbors, scoring=scoring, exclude_self=True)
    check(found, features.double(), features.double(), num_neighbors, tolerance=2e-6, exclude_self=True)


@pytest.mark.parametrize("kept", [0.0, 0.003, 0.3, 0.97])
def test_masked_keys_are_never_found(scoring, kept):
    features = torch.stack([smooth(seed=1), smooth(seed=2)])
    mask = torch.rand(2, NUM_KEYS, generator=draw(3)) < kept
    found = knn(features, None, 5, scoring=scoring, exclude_self=True, key_mask=mask)
    for b in range(2):
        one = type(found)(found.similarity[b], found.index[b])
        doubles = features[b].double()
        check(one, doubles, doubles, 5, tolerance=2e-6, exclude_self=True, key_mask=mask[b])


def test_queries_among_other_keys(scoring):
    queries, keys = smooth(33, seed=7), smooth(900, seed=8)
    check(knn(queries, keys, 6, scoring=scoring), queries.double(), keys.double(), 6, tolerance=2e-6)


@pytest.mark.parametrize("memory_budget", [1, 30_000, 200_000])
def test_the_budget_changes_nothing(scoring, memory_budget):
    features = smooth()
    small = knn(features, None, 5, scoring=scoring, exclude_self=True, memory_budget=memory_budget)
    large = knn(features, None, 5, scoring=scoring, exclude_self=True)
    assert torch.equal(small.index, large.index)
    torch.testing.assert_close(small.similarity, large.similarity, rtol=0, atol=1e-6)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_what_is_not_finite_is_searched_in_float32(scoring, broken):
    features = torch.stack([smooth(), smooth(seed=4)])
    features[0, 13, 5] = broken
    found = knn(features, None, 5, scoring=scoring, normalize=False)
    expected = knn(features, None, 5, scoring="float32", normalize=False)
    torch.testing.assert_close(found.similarity[1], expected.similarity[1])
    assert torch.equal(found.index[1], expected.index[1])
    assert ((found.index >= 0) & (found.index < NUM_KEYS)).all()


def quantize_file(loops):
    return filtered_search.numba_file("quantize") if loops == "numba" else None


@pytest.mark.parametrize("features", AWKWARD.values(), ids=AWKWARD)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_no_score_is_off_by_more_than_the_bound(features, dtype, loops):
    keys = quantize_keys(features, dtype, quantize_file(loops))
    if keys is None:
        size = features.abs().amax()
        assert size > 1e11 or size < 1e-10 or (features == features[0]).all()
        return
    rows, bounds = quantize_queries(features, keys, quantize_file(loops))
    kept = keys.permutation < NUM_KEYS
    order = keys.permutation[kept]
    assert torch.equal(order[keys.inverse_permutation[:NUM_KEYS]], torch.arange(NUM_KEYS))
    exact = features.double() @ (features.double() - features.mean(0).double())[order].T
    scores = rows.double() @ keys.rows[kept].double().T
    if dtype == torch.int8:
        step = features.abs().amax(1, keepdim=True).double() / 127
        step = torch.where(step > 0, step, 1.0) * float((features - features.mean(0)).abs().amax()) / 127
    else:
        step = torch.ones(NUM_KEYS, 1).double()
    torch.testing.assert_close(bounds.unit, step[:, 0], rtol=1e-6, atol=0)
    usable = bounds.error.isfinite()
    assert usable.any()
    error = ((scores * step - exact).abs() / step)[usable]
    assert (error <= bounds.error[usable, None]).all()
    products = (features @ features[order].T).double()  # in float32, and not less the mean
    error_of_product = ((products - bounds.shift[:, None]) / step - scores)[usable].abs()
    assert (error_of_product <= bounds.error[usable, None]).all()
    # and the bound is not idle: within a few times what does happen, for rows that do not cancel
    tight = error.amax(1) > 0.005 * bounds.error[usable]
    assert tight.float().mean() > 0.5 or (exact[usable] == 0).all() or not_centered(features)


def not_centered(features):
    """Whether the mean is so long that rounding the shift is most of the bound."""
    return features.mean(0).norm() > 100 * (features - features.mean(0)).norm(dim=1).amax()


def rows_in_full(features, scoring, loops):
    rows = torch.nn.functional.normalize(features, dim=1)
    search = filtered_search.FilteredSearch(rows, rows, torch.arange(NUM_KEYS), None, 2**24, loops == "numba")
    similarity, index = torch.empty(NUM_KEYS, 5), torch.empty(NUM_KEYS, 5, dtype=torch.int64)
    keys = quantize_keys(rows, DTYPES[scoring], None)
    if keys is None:
        return NUM_KEYS
    return len(search.filter(keys, torch.arange(NUM_KEYS), similarity, index, 5 + 128))


def test_smooth_maps_are_filtered_and_ties_are_searched_in_full(scoring, loops):
    assert rows_in_full(smooth(), scoring, loops) < 10
    assert rows_in_full(smooth(2).repeat(NUM_KEYS // 2, 1), scoring, loops) == NUM_KEYS


def test_what_int8_cannot_tell_apart_is_left_to_bfloat16_at_once(monkeypatch):
    monkeypatch.setattr(filtered_search, "MIN_CANDIDATES", 0)
    tried, quantize = [], filtered_search.quantize_keys
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(filtered_search, "fast_dtypes", lambda: (torch.int8, torch.bfloat16))
    monkeypatch.setattr(filtered_search, "quantize_keys", lambda *rows: tried.append(rows[1]) or quantize(*rows))
    crowded = torch.stack([10 + random_features(2048, 32, seed=seed).float() for seed in range(3)])
    found = knn(crowded, None, 5, exclude_self=True)
    assert tried == [torch.int8, torch.bfloat16, torch.bfloat16, torch.bfloat16]  # int8 for the first image alone
    for number, features in enumerate(crowded.double()):
        one = type(found)(found.similarity[number], found.index[number])
        check(one, features, features, 5, tolerance=2e-6, exclude_self=True)


@pytest.mark.parametrize(
    ("has", "expected"),
    [
        ("", ()),
        ("vnni", (torch.int8,)),
        ("vnni avx512_bf16", (torch.int8, torch.bfloat16)),
        ("vnni avx512_bf16 Intel", (torch.int8,)),
        ("avx512_bf16 Intel", ()),
        ("vnni avx512_bf16 amx_tile", (torch.bfloat16,)),
        ("vnni avx512_bf16 amx_tile Intel", (torch.bfloat16,)),
        ("vnni amx_tile", (torch.int8,)),
    ],
)
def test_what_is_fast_depends_on_the_processor(monkeypatch, has, expected):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for name in ("vnni", "avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda name=name: name in has.split(), raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": f"{has} Xeon"}, raising=False)
    assert filtered_search.fast_dtypes.__wrapped__() == expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # as in torch 2.4
    assert "Intel" in has or filtered_search.fast_dtypes.__wrapped__() == expected
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")  # told to do without, or without
    assert filtered_search.fast_dtypes.__wrapped__() == ()


def test_automatic_scoring_depends_on_the_processor_and_the_size(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(filtered_search, "fast_dtypes", lambda: (torch.bfloat16,))
    monkeypatch.setattr(filtered_search, "quantize_keys", lambda keys, dtype, _: seen.append(dtype))
    for num_nodes, dim in ((NUM_KEYS, 32), (NUM_KEYS, 31), (100, 64), (240, 64), (240, 1100)):
        features = smooth(num_nodes, dim)
        check(knn(features, None, 5), features.double(), features.double(), 5, tolerance=2e-6)
    knn(smooth(NUM_KEYS, 64).double(), None, 5)
    knn(smooth(NUM_KEYS, 64), None, 5, scoring="float32")
    assert seen == 2 * [torch.bfloat16]
    knn(smooth(NUM_KEYS, 64), None, 5, scoring="int8")
    assert seen[2:] == [torch.int8]


@pytest.mark.parametrize(("backend", "dtype"), [("faiss", torch.float32), ("torch", torch.float64)])
def test_a_named_scoring_is_used_or_refused(scoring, backend, dtype):
    with pytest.raises(ValueError, match=rf'`scoring`.*got "{scoring}"'):
        knn(smooth().to(dtype), None, 5, scoring=scoring, backend=backend)
    with pytest.raises(ValueError, match="`scoring`"):
        knn(smooth(), None, 5, scoring="fp4")
