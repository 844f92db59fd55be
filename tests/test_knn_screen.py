"""Coarse scores that sift the keys: the answer must be that of float32 whatever the data, and the bound must hold."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import draw, random_features
from test_knn import check, full_sort

from graphcorrect.knn import _screen, knn

pytestmark = pytest.mark.usefixtures("loops")

DTYPES = {"int8": torch.int8, "bfloat16": torch.bfloat16}
NUM_KEYS = 700  # no whole number of groups


@pytest.fixture(params=DTYPES)
def scoring(request):
    return request.param


@pytest.fixture(autouse=True)
def _sifts_small_images(monkeypatch):
    """Which are searched in full otherwise where more than a few keys are left."""
    monkeypatch.setattr(_screen, "FEW_CANDIDATES", 128)


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


@given(st.integers(0, 10**6), st.floats(-3, 3), st.floats(0, 1))
def test_bits_of_negative_scores_lose_no_candidate(seed, shift, slack):
    scores = (random_features(16, 512, seed=seed) + shift).bfloat16()
    counts, columns = _screen.candidates(scores.view(torch.int16), torch.full((16,), slack), 5, 16, 512) or (None, None)
    if counts is None:
        assert shift < 1  # too few scores above zero, or too many candidates
        return
    for row, found in enumerate(columns.split(counts.tolist())):
        kth = scores[row].topk(5).values[-1]
        needed = (scores[row].double() >= kth.double() - slack).nonzero()[:, 0]
        assert len(found) == 0 or set(needed.tolist()) <= set(found.tolist())


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


@pytest.mark.parametrize("features", AWKWARD.values(), ids=AWKWARD)
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_no_coarse_score_is_off_by_more_than_the_bound(features, dtype):
    coarse = _screen.round_rows(features, features, dtype)
    if coarse is None:
        size = features.abs().amax()
        assert size > 1e11 or size < 1e-10 or (features == features[0]).all()
        return
    kept = coarse.order < NUM_KEYS
    order = coarse.order[kept]
    exact = features.double() @ (features.double() - features.mean(0).double())[order].T
    scores = coarse.queries.double() @ coarse.keys[kept].double().T
    if dtype == torch.int8:
        step = features.abs().amax(1, keepdim=True).double() / 127
        step = torch.where(step > 0, step, 1.0) * float((features - features.mean(0)).abs().amax()) / 127
    else:
        step = torch.ones(NUM_KEYS, 1).double()
    torch.testing.assert_close(coarse.errors.unit, step[:, 0], rtol=1e-6, atol=0)
    usable = coarse.errors.slack.isfinite()
    assert usable.any()
    error = ((scores * step - exact).abs() / step)[usable]
    assert (2 * error <= coarse.errors.slack[usable, None]).all()
    products = (features @ features[order].T).double()  # in float32, and not less the center
    error_of_product = ((products - coarse.errors.shift[:, None]) / step - scores)[usable].abs()
    assert (error_of_product <= coarse.errors.bound[usable, None]).all()
    # and the bound is not idle: within a few times what does happen
    assert (error.amax(1) > 0.01 * coarse.errors.slack[usable]).float().mean() > 0.5 or (exact[usable] == 0).all()


def test_smooth_maps_are_sifted_and_ties_are_searched_in_full(scoring):
    def rows_in_full(features):
        rows = torch.nn.functional.normalize(features, dim=1)
        search = _screen._ImageSearch(rows, rows, True, None, 2**24)
        similarity, index = torch.empty(NUM_KEYS, 5), torch.empty(NUM_KEYS, 5, dtype=torch.int64)
        done, left = search._sift(DTYPES[scoring], 0, similarity, index)
        return NUM_KEYS - done + len(left)

    assert rows_in_full(smooth()) < 10
    assert rows_in_full(smooth(2).repeat(NUM_KEYS // 2, 1)) == NUM_KEYS


def test_what_int8_cannot_tell_apart_is_left_to_bfloat16_at_once(monkeypatch):
    monkeypatch.setattr(_screen, "FEW_CANDIDATES", 0)
    tried, round_rows = [], _screen.round_rows
    monkeypatch.setattr(_screen, "fast_dtypes", lambda: (torch.int8, torch.bfloat16))
    monkeypatch.setattr(_screen, "round_rows", lambda *rows: tried.append(rows[2]) or round_rows(*rows))
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
    for name in ("vnni", "avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda name=name: name in has.split(), raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": f"{has} Xeon"}, raising=False)
    assert _screen.fast_dtypes.__wrapped__() == expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # as in torch 2.4
    assert "Intel" in has or _screen.fast_dtypes.__wrapped__() == expected


def test_automatic_scoring_depends_on_the_processor_and_the_size(monkeypatch):
    seen = []
    monkeypatch.setattr(_screen, "fast_dtypes", lambda: (torch.bfloat16,))
    monkeypatch.setattr(_screen, "round_rows", lambda queries, keys, dtype: seen.append(dtype))
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
