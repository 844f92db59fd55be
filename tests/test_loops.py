"""Loops that numba compiles: where they run, that they leave the process as it was, and say what torch says."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from graphcorrect.knn import _rounded, _screen
from hypothesis import given
from hypothesis import strategies as st
from strategies import draw, random_features

from graphcorrect import _eager
from graphcorrect.graphs.neighbor import Edges
from graphcorrect.nodes import unit_rows

numba = pytest.importorskip("numba")

from graphcorrect.knn import _numba_sift  # noqa: E402

from graphcorrect.ops.kernels.cpu import _compile as _numba_loops  # noqa: E402


def said_by(script, **environment):
    """What a process of its own prints."""
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.split()


SEARCH = """
import sys, torch
from graphcorrect import _eager, knn
rows = torch.randn(700, 32, generator=torch.Generator().manual_seed(0))
found = knn(rows, None, 5, exclude_self=True, scoring="bfloat16")
"""


def test_loops_serve_floats_on_a_cpu_outside_a_compiler():
    assert _eager.may_loop(torch.zeros(3))
    assert _eager.may_loop(torch.zeros(3, dtype=torch.float64))
    assert not _eager.may_loop(torch.zeros(3, dtype=torch.float16))
    assert not _eager.may_loop(torch.zeros(3, dtype=torch.int64))
    assert not _eager.may_loop(torch.zeros(3, device="meta"))
    seen = []

    def look(*values):
        seen.append(_eager.may_loop(*values))
        return values[-1] + 1

    torch.compile(look, backend="eager")(torch.zeros(3))
    torch.func.vmap(look)(torch.zeros(2, 3))
    torch.func.grad(lambda values: look(values).sum())(torch.zeros(3))
    torch.func.vmap(partial(look, torch.zeros(3)))(torch.zeros(2, 3, dtype=torch.int64))
    assert seen == [False] * 4


def test_numba_is_left_alone_where_the_environment_says_so():
    ask = SEARCH + "print('numba' in sys.modules, _eager.may_loop(rows))"
    assert said_by(ask) == ["True", "True"]
    assert said_by(ask, GRAPHCORRECT_NUMBA="0") == ["False", "False"]


def test_without_numba_the_answer_is_the_same():
    ask = SEARCH + "print(found.index.sum().item(), _eager.may_loop(rows))"
    assert said_by("import sys; sys.modules['numba'] = None" + ask) == [said_by(ask)[0], "False"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_process_forked_after_a_loop_ran_does_without():
    fork = """
import os
print(_eager.may_loop(rows), flush=True)
if (child := os.fork()) == 0:
    torch.set_num_threads(1)  # as a DataLoader's worker does
    again = knn(rows, None, 5, exclude_self=True, scoring="bfloat16")
    print(_eager.may_loop(rows), torch.equal(again.index, found.index), flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    assert said_by("import warnings; warnings.simplefilter('ignore')" + SEARCH + fork) == ["True", "False", "True"]


def test_threads_that_bear_no_company_are_not_used(monkeypatch):
    monkeypatch.setattr(numba, "threading_layer", lambda: "workqueue")
    assert not _numba_loops._has_safe_threads.__wrapped__()
    monkeypatch.setattr(numba, "threading_layer", lambda: "omp")
    assert _numba_loops._has_safe_threads.__wrapped__()


def test_loops_run_on_torch_s_threads_and_leave_numba_s_number_alone(monkeypatch):
    assert _eager.may_loop(torch.ones(1))  # which runs one, the first time that it is asked
    seen, set_number = [], numba.set_num_threads
    monkeypatch.setattr(numba, "set_num_threads", lambda number: seen.append(number) or set_number(number))
    before = numba.get_num_threads()
    unit_rows(torch.ones(4, 3))
    assert seen == [min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS), before]
    assert numba.get_num_threads() == before


@pytest.mark.parametrize("number", [1, 2])
def test_torch_keeps_its_number_of_threads(number):
    ask = f"import torch; torch.set_num_threads({number})" + SEARCH + "print(torch.get_num_threads())"
    assert said_by(ask) == [str(number)]


def test_loops_may_run_in_several_threads_at_once():
    images = [random_features(2000, 16, seed=seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(unit_rows, images * 4))
    for rows, unit in zip(images * 4, found, strict=True):
        torch.testing.assert_close(unit, rows / rows.norm(dim=1, keepdim=True))


def test_where_nothing_can_be_written_loops_are_compiled_all_the_same(monkeypatch):
    def no_place(function, *, cache=False, **settings):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return function

    monkeypatch.setattr(numba, "njit", no_place)
    values = torch.zeros(3)
    _numba_loops.loop(lambda given: given.fill(7.0))(values)
    assert values.tolist() == [7.0] * 3


@given(st.integers(0, 10**6), st.floats(0, 3), st.sampled_from([torch.int32, torch.int16]))
def test_the_lower_threshold_of_a_loop_is_torch_s(seed, slack, dtype):
    if dtype == torch.int16:
        threshold = (random_features(64, 1, seed=seed) * 4).bfloat16().view(torch.int16)
        slacks = torch.full((64,), slack, dtype=torch.float64)
    else:
        threshold = torch.randint(-(2**31), 2**31, (64, 1), generator=draw(seed)).to(torch.int32)
        slacks = torch.full((64,), slack * 2**29, dtype=torch.float64)
    slacks[0] = torch.inf
    expected = _screen._lower(threshold, slacks[:, None])[:, 0].tolist()
    room = torch.empty(1).numpy()
    given_ = zip(threshold[:, 0].tolist(), slacks.tolist(), strict=True)
    assert [_numba_sift._lower(t, s, dtype == torch.int32, room) for t, s in given_] == expected


def test_a_loop_scores_fewer_keys_than_coarse_scores_alone_would_leave():
    centers, labels = random_features(5, 32, seed=3), torch.arange(640) % 5
    rows = unit_rows((centers[labels] + 0.3 * random_features(640, 32, seed=5)).float())
    coarse = _rounded.round_rows(rows, rows, torch.int8)
    scores = torch._int_mm(coarse.queries, coarse.keys.mT)
    threshold = scores.view(640, 32, -1).amax(1).topk(5).values[:, -1:]
    alone = (scores >= threshold - coarse.errors.slack[:, None]).sum()
    nothing = torch.zeros(0, dtype=torch.int64)
    similarity, index = torch.empty(640, 5), torch.empty(640, 5, dtype=torch.int64)
    left, seen = _numba_sift.best_of_sifted(
        scores, coarse.errors, coarse.order, nothing, rows, rows, similarity, index, group=32, fine=8, most=512
    )
    assert len(left) == 0
    assert 5 * 640 <= seen < 0.75 * alone
    torch.testing.assert_close(similarity, (rows @ rows.T).topk(5).values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16])
def test_rounding_in_a_loop_is_torch_s(dtype, monkeypatch):
    rows = random_features(70, 24).float() * torch.logspace(-30, 10, 70)[:, None]
    rows[5], rows[6] = 0.0, torch.linspace(-1, 1, 24)
    rows[7] = 1 + 2.0**-8 * torch.arange(24)  # halfway between two bfloat16 numbers, every other time
    order = torch.randperm(80, generator=draw(1))
    options = {"order": order, "center": rows[10:20].mean(0), "step": 0.01}

    def rounded():
        return *_rounded._round(rows, dtype), *_rounded._round(rows[:20], dtype, **options)

    looped = rounded()
    monkeypatch.setattr(_eager, "_numba_loops", lambda: None)
    for found, expected in zip(looped, rounded(), strict=True):
        if found.dtype == dtype:
            assert torch.equal(found, expected)
        else:
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-30)


@given(batch=st.integers(1, 4), nodes=st.integers(1, 40), k=st.integers(1, 6), seed=st.integers(0, 1000))
def test_edges_sorted_by_counting_are_those_sorted(batch, nodes, k, seed):
    index = torch.randint(nodes, (batch, nodes, k), generator=draw(seed))
    for mine, theirs in zip(Edges.between(index, True), Edges.between(index, False), strict=True):
        assert mine.dtype == torch.int32
        assert torch.equal(mine.long(), theirs.long())


@pytest.mark.parametrize("stray", [-1, 5, 2**40])
def test_edges_that_lead_out_of_their_graph_are_left_to_torch(stray):
    index = torch.randint(5, (2, 5, 3), generator=draw(0))
    index[1, 2, 0] = stray
    for mine, theirs in zip(Edges.between(index, True), Edges.between(index, False), strict=True):
        assert mine.dtype == torch.int64
        assert torch.equal(mine, theirs)
