"""The triton backend against float64. Functions `interpreted_*` run as in triton_interpreter.py."""

import importlib
import itertools
import os
import sys
import types

import pytest
import torch
from knn_checks import check, features_of
from strategies import identical_features
from triton_interpreter import run_interpreted

from graphcorrect.ops.knn import knn

NO_OPTIONS = {"normalize": False, "exclude_self": False, "key_mask": None}


@pytest.fixture
def search():
    """The backend itself, which is imported on use."""
    pytest.importorskip("triton")
    from graphcorrect.ops.kernels.cuda import topk

    return topk


@pytest.fixture
def topk_filter(monkeypatch):
    """The kernels of the filter, with many rows a program: the interpreter runs one program after the other."""
    pytest.importorskip("triton")
    from graphcorrect.ops.kernels.cuda import rescore, topk_filter

    if "TRITON_INTERPRET" in os.environ:
        monkeypatch.setattr(rescore, "_ROWS", 16)
        monkeypatch.setattr(rescore, "_ENTRIES", 2**16)
    return topk_filter


@pytest.fixture(params=["float16", "float32"])
def scoring(request, topk_filter):
    return request.param


def take(found, image):
    return type(found)(found.similarity[image], found.index[image])


def test_under_the_interpreter():
    run_interpreted(__file__)


@pytest.mark.parametrize(
    "size",
    # queries, keys, width, k: tiles are of 64 queries and 128 keys, and of 1024 keys or more a program
    [
        (1, 1, 1, 1),
        (1, 40, 1, 3),
        (3, 20, 33, 20),
        (65, 129, 33, 7),
        (5, 130, 300, 10),
        (2, 2100, 4, 5),
        (2, 260, 8, 128),
    ],
)
def interpreted_awkward_sizes(scoring, size):
    num_queries, num_keys, width, num_neighbors = size
    queries, keys = features_of(num_queries, width, seed=1), features_of(num_keys, width, seed=2)
    found = knn(queries, keys, num_neighbors, backend="triton", scoring=scoring)
    check(found, queries.double(), keys.double(), num_neighbors, tolerance=1e-6)


def interpreted_a_wide_row(scoring):
    features = features_of(12, 1024)
    found = knn(features, None, 3, backend="triton", scoring=scoring, exclude_self=True)
    check(found, features.double(), features.double(), 3, tolerance=1e-6, exclude_self=True)


def interpreted_batches_masks_and_self(scoring):
    features = features_of(2, 1, 34, 6)
    mask = torch.rand(2, 1, 34) < 0.5
    found = knn(features, None, 4, backend="triton", scoring=scoring, exclude_self=True, key_mask=mask)
    for image in itertools.product(range(2), range(1)):
        rows = features[image].double()
        check(take(found, image), rows, rows, 4, exclude_self=True, key_mask=mask[image])


def interpreted_each_problem_of_a_batch_has_its_own_keys(scoring):
    queries, keys = features_of(3, 2, 5, seed=1), features_of(3, 20, 5, seed=2)
    found = knn(queries, keys, 4, backend="triton", scoring=scoring)
    for image in range(3):
        check(take(found, image), queries[image].double(), keys[image].double(), 4)


@pytest.mark.parametrize("kept", [0, 1, 2])
def interpreted_slots_that_no_key_can_fill(scoring, kept):
    features = features_of(1, 6, 3)
    mask = torch.arange(6)[None] < kept
    found = knn(features, None, 4, backend="triton", scoring=scoring, exclude_self=True, key_mask=mask)
    rows = features[0].double()
    check(take(found, 0), rows, rows, 4, exclude_self=True, key_mask=mask[0])


def interpreted_duplicates_and_zero_rows(scoring):
    features = features_of(8, 4).repeat(5, 1)
    features[::7] = 0.0
    found = knn(features, None, 9, backend="triton", scoring=scoring, exclude_self=True)
    check(found, features.double(), features.double(), 9, exclude_self=True)


def interpreted_ties_go_to_the_lower_index(scoring):
    found = knn(identical_features(140, dtype=torch.float32), None, 5, backend="triton", scoring=scoring)
    assert found.index.tolist() == [list(range(5))] * 140


def interpreted_inner_products_of_any_scale(scoring):
    for scale in (1e-15, 1e15):  # of both: products of the order of 1e-30 and 1e30
        queries, keys = features_of(4, 7, seed=1) * scale, features_of(30, 7, seed=2) * scale
        found = knn(queries, keys, 3, backend="triton", scoring=scoring, normalize=False)
        found = type(found)(found.similarity.double() / scale**2, found.index)
        check(found, queries.double() / scale, keys.double() / scale, 3, normalize=False, tolerance=1e-5)


def interpreted_a_nan_stays_in_its_image(scoring):
    features = features_of(3, 10, 4)
    broken = features.clone()
    broken[1, 5, 2] = torch.nan
    found = knn(broken, None, 3, backend="triton", scoring=scoring, exclude_self=True)
    whole = knn(features, None, 3, backend="triton", scoring=scoring, exclude_self=True)
    assert ((found.index >= 0) & (found.index < 10)).all()
    assert found.similarity[1].isnan().any()  # the largest, as in torch: never hidden
    assert torch.equal(found.index[[0, 2]], whole.index[[0, 2]])
    assert torch.equal(found.similarity[[0, 2]], whole.similarity[[0, 2]])


def interpreted_shared_keys_change_nothing(topk_filter, monkeypatch):
    queries, keys = features_of(3, 5, seed=1), features_of(400, 5, seed=2)
    whole = knn(queries, keys, 6, backend="triton")
    monkeypatch.setattr(topk_filter, "_MIN_KEYS", 100)
    split = knn(queries, keys, 6, backend="triton")
    assert torch.equal(whole.index, split.index)
    assert torch.equal(whole.similarity, split.similarity)


def interpreted_keys_that_rounding_cannot_tell_apart(topk_filter):
    """Cosines that differ by less than float16 rounding does, and by more than float32 does."""
    keys = torch.nn.functional.normalize(1 + 1e-2 * features_of(60, 16), dim=-1)
    queries = keys[:20]
    found = topk_filter.search(queries[None], keys[None], 3, **NO_OPTIONS)
    assert not found.is_open.any()
    scores = queries.double() @ keys.double().T
    best = scores.topk(3)
    torch.testing.assert_close(scores.gather(1, found.index[0]), best.values, rtol=0, atol=1e-7)
    # The case is hard enough to say something: float16 scores alone would have picked others
    narrow = (queries.half().double() @ keys.half().double().T).topk(3).indices
    assert (scores.gather(1, narrow) < best.values - 1e-6).any()


def interpreted_only_what_the_filter_cannot_answer_is_left_open(topk_filter):
    features = torch.nn.functional.normalize(features_of(2, 200, 6), dim=-1)
    features[1, 40:180] = features[1, :1]  # more ties than there are slots
    found = topk_filter.search(features, None, 4, normalize=False, exclude_self=True, key_mask=None)
    tied = torch.zeros(2, 200, dtype=torch.bool)
    tied[1, 40:180], tied[1, 0] = True, True
    assert found.is_open.bool()[tied].all()
    assert not found.is_open[0].any()


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e10])
def interpreted_the_bound_holds(topk_filter, scale):
    rows = torch.nn.functional.normalize(features_of(2, 70, 40), dim=-1) * scale
    rounded = topk_filter.quantize_rows(rows, 64, normalize=False)
    threshold = rows.new_empty(2, 70)
    topk_filter._threshold_kernel[(9,)](
        rows.new_zeros(2, 70, 64), *rounded[2:5], threshold, 140, 70, 1, 2 * 48 * 2.0**-23, GROUPS=64, ROWS=16
    )
    bound = threshold.double() / -2
    short = rounded.rows[:, :70, :40].double()
    times = (short.abs().amax((1, 2)) / rows.abs().amax((1, 2))).log2().round().exp2()[:, None, None]
    error = (times**2 * (rows.double() @ rows.double().mT) - short @ short.mT).abs()
    assert (error.amax(-1) <= bound).all()
    assert (bound <= (times[..., 0] * scale) ** 2 * (1.02 * 2.0**-10 + 2.1 * 48 * 2**-23)).all()


def interpreted_half_precision():
    features = features_of(40, 8).bfloat16()
    found = knn(features, None, 3, backend="triton", exclude_self=True)
    assert found.similarity.dtype == torch.bfloat16
    widened = knn(features.float(), None, 3, backend="triton", exclude_self=True)
    assert torch.equal(found.index, widened.index)


def interpreted_inputs_of_any_layout_are_left_alone(scoring):
    features, mask = features_of(1, 6, 20).mT, (torch.arange(40) % 3 > 0)[None, ::2]
    before = features.clone()
    options = {"exclude_self": True, "backend": "triton", "scoring": scoring}
    found = knn(features, None, 3, key_mask=mask, **options)
    again = knn(features.contiguous(), None, 3, key_mask=mask.contiguous(), **options)
    assert torch.equal(found.similarity, again.similarity)
    assert torch.equal(found.index, again.index)
    assert torch.equal(features, before)


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (0, 0, 3), (2, 1, 3)])
def interpreted_empty_problems(shape):
    found = knn(torch.zeros(shape), None, 0, backend="triton", exclude_self=True)
    assert found.index.shape == (*shape[:2], 0)


def interpreted_nodes_without_features(scoring):
    assert (knn(torch.zeros(3, 0), None, 2, backend="triton", scoring=scoring).similarity == 0).all()


def test_what_it_does_not_serve_is_refused(search):
    features = features_of(200, 4)
    with pytest.raises(TypeError, match=r'`queries` in float32.*got torch.float64; use backend="torch"'):
        knn(features.double(), None, 3, backend="triton")
    with pytest.raises(ValueError, match=r'`num_neighbors` of at most 128.*got 129; use backend="torch"'):
        knn(features, None, 129, backend="triton")
    with pytest.raises(ValueError, match='`scoring`.*"float16".*got "int8" for backend="triton"'):
        knn(features, None, 3, backend="triton", scoring="int8")


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="TRITON_INTERPRET is set: the CPU is served")
def test_a_cpu_tensor_is_refused(search):
    with pytest.raises(ValueError, match=r"`queries` on a CUDA device.*got cpu.*TRITON_INTERPRET=1"):
        knn(features_of(5, 4), None, 3, backend="triton")


def test_an_old_gpu_is_refused(search, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    queries = types.SimpleNamespace(dtype=torch.float32, is_cuda=True, device="cuda:0")
    with pytest.raises(ValueError, match=r"capability 8.0 or more.*got cuda:0 with 7.5; use backend=\"torch\""):
        search._check_served(queries, 20)


def test_without_triton_the_install_line_is_given_and_other_backends_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "graphcorrect.ops.kernels.cuda.topk", raising=False)
    with pytest.raises(ImportError, match="pip install triton"):
        knn(features_of(5, 4), None, 3, backend="triton")
    for backend in ("auto", "torch"):
        assert knn(features_of(5, 4), None, 3, backend=backend).index.shape == (5, 3)


FLOATS, HALVES, INTS, LONGS, BYTES, SIZE = "*fp32", "*fp16", "*i32", "*i64", "*i8", "i32"
TILE = [True, 256, 128, 64, 256]
KERNELS = {  # the types of their arguments, then the values of those that the compiler needs
    "_quantize_kernel": ([FLOATS, FLOATS, FLOATS, HALVES, FLOATS, FLOATS, INTS, *[SIZE] * 6], [256, 256, 8]),
    "_sample_kernel": ([HALVES, HALVES, BYTES, FLOATS, *[SIZE] * 5], TILE),
    "_threshold_kernel": ([FLOATS, FLOATS, FLOATS, INTS, FLOATS, SIZE, SIZE, SIZE, "fp32"], [64, 32]),
    "_collect_kernel": ([HALVES, HALVES, BYTES, FLOATS, LONGS, INTS, *[SIZE] * 5], [*TILE[:2], 64, *TILE[2:]]),
    "_select_kernel": (
        [FLOATS, FLOATS, FLOATS, LONGS, INTS, INTS, FLOATS, LONGS, BYTES, *[SIZE] * 5],
        [True, 1, 64, 1, 16],
    ),
    "_search_kernel": ([FLOATS, FLOATS, BYTES, BYTES, FLOATS, LONGS, *[SIZE] * 4], [True, 32, 64, 128, 32]),
}


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="TRITON_INTERPRET is set: nothing is compiled")
@pytest.mark.parametrize("name", KERNELS)
def test_the_kernels_compile_for_an_h100(name, tmp_path, monkeypatch):
    """Down to machine code, which needs no GPU; the interpreter accepts programs that the compiler does not."""
    triton = pytest.importorskip("triton", minversion="3.6")  # the compiler's own interface changes with versions
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    names = ("topk", "quantize", "topk_filter", "rescore")
    files = [importlib.import_module(f"graphcorrect.ops.kernels.cuda.{file}") for file in names]
    kernel = next(getattr(file, name) for file in files if hasattr(file, name))
    types, constants = KERNELS[name]
    types = types + ["constexpr"] * len(constants)
    values = {(len(types) - len(constants) + place,): value for place, value in enumerate(constants)}
    source = ASTSource(kernel, dict(zip(kernel.arg_names, types, strict=True)), constexprs=values)
    options = {"num_warps": 1 if name == "_select_kernel" else 8, "num_stages": 3, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert compiled.asm["cubin"]
    assert compiled.metadata.shared <= 227 * 2**10
    assert ("wgmma" in compiled.asm["ptx"]) == (name in ("_sample_kernel", "_collect_kernel", "_search_kernel"))
