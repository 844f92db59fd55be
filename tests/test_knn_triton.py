"""The triton backend. Functions `interpreted_*` are run by `test_under_the_interpreter` in a process of its own, where
TRITON_INTERPRET=1 lets the kernels run on the CPU; triton reads it on import, so it would bind the whole session."""

import itertools
import os
import subprocess
import sys

import pytest
import torch
from strategies import identical_features, random_features
from test_knn import check

from graphcorrect.knn import knn

PRECISIONS = ["ieee", "tf32x3", "tf32", "bf16"]
NO_OPTIONS = {"exclude_self": False, "key_mask": None}


@pytest.fixture
def search():
    """The backend itself, which is imported on use."""
    pytest.importorskip("triton")
    from graphcorrect.knn import _triton

    return _triton


@pytest.fixture(params=["ieee", "tf32", "bf16"])  # to the interpreter "tf32x3" is "ieee"
def precision(request, search, monkeypatch):
    """Each precision in turn, as the one that `knn` uses."""
    monkeypatch.setitem(search.search.__kwdefaults__, "precision", request.param)
    return request.param


def features_of(*shape, seed=0):
    return random_features(*shape, seed=seed, dtype=torch.float32)


def take(found, image):
    return type(found)(found.similarity[image], found.index[image])


def test_under_the_interpreter():
    pytest.importorskip("triton")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-o", "python_functions=interpreted_*"]
        + [__file__],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=os.path.dirname(os.path.dirname(__file__)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert " passed" in run.stdout
    assert "skipped" not in run.stdout


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
def interpreted_awkward_sizes(precision, size):
    num_queries, num_keys, width, num_neighbors = size
    queries, keys = features_of(num_queries, width, seed=1), features_of(num_keys, width, seed=2)
    found = knn(queries, keys, num_neighbors, backend="triton")
    check(found, queries.double(), keys.double(), num_neighbors, tolerance=1e-6)


def interpreted_a_wide_row(precision):
    features = features_of(12, 1024)
    found = knn(features, None, 3, backend="triton", exclude_self=True)
    check(found, features.double(), features.double(), 3, tolerance=1e-6, exclude_self=True)


def interpreted_batches_masks_and_self(precision):
    features = features_of(2, 1, 34, 6)
    mask = torch.rand(2, 1, 34) < 0.5
    found = knn(features, None, 4, backend="triton", exclude_self=True, key_mask=mask)
    for image in itertools.product(range(2), range(1)):
        rows = features[image].double()
        check(take(found, image), rows, rows, 4, exclude_self=True, key_mask=mask[image])


def interpreted_each_problem_of_a_batch_has_its_own_keys(precision):
    queries, keys = features_of(3, 2, 5, seed=1), features_of(3, 20, 5, seed=2)
    found = knn(queries, keys, 4, backend="triton")
    for image in range(3):
        check(take(found, image), queries[image].double(), keys[image].double(), 4)


@pytest.mark.parametrize("kept", [0, 1, 2])
def interpreted_slots_that_no_key_can_fill(precision, kept):
    features = features_of(1, 6, 3)
    mask = torch.arange(6)[None] < kept
    found = knn(features, None, 4, backend="triton", exclude_self=True, key_mask=mask)
    rows = features[0].double()
    check(take(found, 0), rows, rows, 4, exclude_self=True, key_mask=mask[0])


def interpreted_duplicates_and_zero_rows(precision):
    features = features_of(8, 4).repeat(5, 1)
    features[::7] = 0.0
    found = knn(features, None, 9, backend="triton", exclude_self=True)
    check(found, features.double(), features.double(), 9, exclude_self=True)


def interpreted_ties_go_to_the_lower_index():
    found = knn(identical_features(140, dtype=torch.float32), None, 5, backend="triton")
    assert found.index.tolist() == [list(range(5))] * 140


def interpreted_inner_products_of_any_scale(precision):
    for scale in (1e-15, 1e15):  # of both: products of the order of 1e-30 and 1e30
        queries, keys = features_of(4, 7, seed=1) * scale, features_of(30, 7, seed=2) * scale
        found = knn(queries, keys, 3, backend="triton", normalize=False)
        found = type(found)(found.similarity.double() / scale**2, found.index)
        check(found, queries.double() / scale, keys.double() / scale, 3, normalize=False, tolerance=1e-5)


def interpreted_a_nan_stays_in_its_image(precision):
    features = features_of(3, 10, 4)
    broken = features.clone()
    broken[1, 5, 2] = torch.nan
    found = knn(broken, None, 3, backend="triton", exclude_self=True)
    whole = knn(features, None, 3, backend="triton", exclude_self=True)
    assert ((found.index >= 0) & (found.index < 10)).all()
    assert found.similarity[1].isnan().any()  # the largest, as in torch: never hidden
    assert torch.equal(found.index[[0, 2]], whole.index[[0, 2]])
    assert torch.equal(found.similarity[[0, 2]], whole.similarity[[0, 2]])


def interpreted_shared_keys_change_nothing(search, monkeypatch):
    queries, keys = features_of(3, 5, seed=1), features_of(400, 5, seed=2)
    whole = knn(queries, keys, 6, backend="triton")
    monkeypatch.setattr(search, "_LEAST_KEYS", 100)
    split = knn(queries, keys, 6, backend="triton")
    assert torch.equal(whole.index, split.index)
    assert torch.equal(whole.similarity, split.similarity)


@pytest.mark.parametrize(("rounded", "spread"), [("tf32", 3e-3), ("bf16", 3e-2)])
def interpreted_rows_that_rounding_leaves_open_are_searched_again(search, monkeypatch, rounded, spread):
    """Cosines that differ by less than rounding does, and by more than float32 does."""
    keys = torch.nn.functional.normalize(1 + spread * features_of(1, 400, 16), dim=-1)
    queries = keys[:, :5].clone()
    exact = search.search(queries, keys, 3, **NO_OPTIONS)
    found = search.search(queries, keys, 3, **NO_OPTIONS, precision=rounded)
    torch.testing.assert_close(found[0], exact[0], rtol=0, atol=4e-7)
    # Without the second search the answer would be another one: the case is hard enough to say something
    monkeypatch.setattr(search, "_error_bound", lambda queries, *_: queries.new_full(queries.shape[:2], -torch.inf))
    careless = search.search(queries, keys, 3, **NO_OPTIONS, precision=rounded)
    assert (careless[0] < exact[0] - 1e-6).any()


def interpreted_well_separated_rows_are_searched_once(search, monkeypatch):
    """Certified, so that the second search finds nothing to do."""
    searched = []
    best_entries = search._best_entries

    def watched(*arguments):
        searched.append(arguments[6:])
        return best_entries(*arguments)

    monkeypatch.setattr(search, "_best_entries", watched)
    angles = torch.linspace(0, 1.5, 40)
    features = torch.stack([angles.cos(), angles.sin()], dim=1)[None]
    search.search(features[:, :1], features, 2, exclude_self=False, key_mask=None, precision="tf32")
    first, second = searched
    assert first == ()
    assert not second[0].any()


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e10])
@pytest.mark.parametrize("rounded", ["tf32", "bf16"])
def interpreted_the_bound_holds(search, rounded, scale):
    queries, keys = torch.nn.functional.normalize(features_of(2, 2, 30, 40), dim=-1) * scale
    pair = [search._rounded(rows, rounded) for rows in (queries, keys)]
    bound = search._error_bound(queries, keys, *pair)
    error = (queries.double() @ keys.double().mT - pair[0].double() @ pair[1].double().mT).abs()
    assert (error.amax(-1) <= bound).all()
    unit = {"tf32": 2.0**-10, "bf16": 2.0**-7}[rounded]
    assert (bound <= scale**2 * (1.02 * unit + 2.1 * 40 * 2**-23)).all()


def interpreted_half_precision():
    features = features_of(40, 8).bfloat16()
    found = knn(features, None, 3, backend="triton", exclude_self=True)
    assert found.similarity.dtype == torch.bfloat16
    widened = knn(features.float(), None, 3, backend="triton", exclude_self=True)
    assert torch.equal(found.index, widened.index)


@pytest.mark.parametrize("precision", PRECISIONS)
def interpreted_inputs_of_any_layout_are_left_alone(search, precision):
    features, mask = features_of(1, 6, 20).mT, (torch.arange(40) % 3 > 0)[None, ::2]
    before = features.clone()
    found = search.search(features, features, 3, exclude_self=True, key_mask=mask, precision=precision)
    rows = features.contiguous()
    again = search.search(rows, rows, 3, exclude_self=True, key_mask=mask.contiguous(), precision=precision)
    assert torch.equal(found[0], again[0])
    assert torch.equal(found[1], again[1])
    assert torch.equal(features, before)


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (0, 0, 3), (2, 1, 3)])
def interpreted_empty_problems(shape):
    found = knn(torch.zeros(shape), None, 0, backend="triton", exclude_self=True)
    assert found.index.shape == (*shape[:2], 0)


def interpreted_nodes_without_features(precision):
    assert (knn(torch.zeros(3, 0), None, 2, backend="triton").similarity == 0).all()


def test_what_it_does_not_serve_is_refused(search):
    features = features_of(200, 4)
    with pytest.raises(TypeError, match=r'`queries` in float32.*got torch.float64; use backend="torch"'):
        knn(features.double(), None, 3, backend="triton")
    with pytest.raises(ValueError, match=r'`num_neighbors` of at most 128.*got 129; use backend="torch"'):
        knn(features, None, 129, backend="triton")
    with pytest.raises(ValueError, match="expected `precision` to be one of"):
        search.search(features[None], features[None], 3, **NO_OPTIONS, precision="fp8")


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="TRITON_INTERPRET is set: the CPU is served")
def test_a_cpu_tensor_is_refused(search):
    with pytest.raises(ValueError, match=r"`queries` on a CUDA device.*got cpu.*TRITON_INTERPRET=1"):
        knn(features_of(5, 4), None, 3, backend="triton")


def test_without_triton_the_install_line_is_given_and_other_backends_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "graphcorrect.knn._triton", raising=False)
    monkeypatch.delattr(sys.modules["graphcorrect.knn"], "_triton", raising=False)
    with pytest.raises(ImportError, match="pip install triton"):
        knn(features_of(5, 4), None, 3, backend="triton")
    for backend in ("auto", "torch"):
        assert knn(features_of(5, 4), None, 3, backend=backend).index.shape == (5, 3)


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="TRITON_INTERPRET is set: nothing is compiled")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_kernels_compile_for_an_h100(search, precision, tmp_path, monkeypatch):
    """Down to machine code, which needs no GPU; the interpreter accepts programs that the compiler does not."""
    triton = pytest.importorskip("triton", minversion="3.9")  # the compiler's own interface changes with versions
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    rows, size = "*bf16" if precision == "bf16" else "*fp32", "i32"
    kernels = {
        search._search_kernel: (
            [rows, rows, "*i8", "*i8", "*i64", size, size, size, size, size],
            [True, "ieee" if precision == "bf16" else precision, 32, 64, 128, search._BLOCK_D[precision]],
        ),
        search._rescore_kernel: (["*fp32", "*fp32", "*i64", "*fp32", size, size, size], [32, 128]),
    }
    for kernel, (types, constants) in kernels.items():
        types = types + ["constexpr"] * len(constants)
        values = {(len(types) - len(constants) + place,): value for place, value in enumerate(constants)}
        source = ASTSource(kernel, dict(zip(kernel.arg_names, types, strict=True)), constexprs=values)
        options = {"num_warps": 8, "num_stages": 3, "enable_fp_fusion": True}
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        assert compiled.asm["cubin"]
        tensor_cores = kernel is search._search_kernel and precision != "ieee"
        assert ("wgmma" in compiled.asm["ptx"]) == tensor_cores


@pytest.mark.gpu
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("size", [(1, 1, 2500, 33, 7), (2, 70, 129, 300, 128), (2, 4225, 4225, 256, 20)])
def test_on_the_gpu_as_in_float64(search, precision, size):
    batch, num_queries, num_keys, width, num_neighbors = size
    queries = torch.nn.functional.normalize(features_of(batch, num_queries, width, seed=1), dim=-1).cuda()
    keys = torch.nn.functional.normalize(features_of(batch, num_keys, width, seed=2), dim=-1).cuda()
    mask = torch.rand(batch, num_keys, device="cuda") < 0.9
    mask = None if num_neighbors == 128 else mask
    exclude_self = num_queries == num_keys
    found = search.search(queries, keys, num_neighbors, exclude_self=exclude_self, key_mask=mask, precision=precision)
    scores = queries.double() @ keys.double().mT
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], -torch.inf)
    if exclude_self:
        scores.diagonal(dim1=-2, dim2=-1).fill_(-torch.inf)
    best = scores.topk(num_neighbors).values
    torch.testing.assert_close(found[0].double(), best, rtol=0, atol=5e-6)
    torch.testing.assert_close(scores.gather(-1, found[1]), best, rtol=0, atol=5e-6)
    ordered = found[1].sort(-1).values
    assert (ordered[..., 1:] > ordered[..., :-1]).all()


@pytest.mark.gpu
@pytest.mark.parametrize("rounded", ["tf32", "bf16"])
def test_rounded_rows_on_the_gpu_are_searched_again_where_open(search, rounded):
    features = torch.nn.functional.normalize(1 + 1e-2 * features_of(2, 700, 64), dim=-1).cuda()
    features[:, 300:400] = features[:, :1]  # ties far deeper than the margin
    options = {"exclude_self": True, "key_mask": None}
    exact = search.search(features, features, 20, **options)
    found = search.search(features, features, 20, **options, precision=rounded)
    torch.testing.assert_close(found[0], exact[0], rtol=0, atol=1e-6)
