"""Loops that numba compiles: where they run, that they leave the process as it was, and say what torch says."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import draw, random_features

import graphcorrect
from graphcorrect.ops._dispatch import numba_refuses, without
from graphcorrect.ops.kernels.cpu import filtered_search, quantized
from graphcorrect.ops.unit_rows import unit_rows

numba = pytest.importorskip("numba")

from graphcorrect.ops.kernels.cpu import _compile as _numba_loops  # noqa: E402
from graphcorrect.ops.kernels.cpu import filter as numba_filter  # noqa: E402
from graphcorrect.ops.kernels.cpu import quantize as numba_quantize  # noqa: E402


def said_by(script, **environment):
    """What a process of its own prints."""
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.split()


SEARCH = """
import sys, torch
from graphcorrect import knn
from graphcorrect.ops._dispatch import numba_refuses
rows = torch.randn(700, 32, generator=torch.Generator().manual_seed(0))
found = knn(rows, None, 5, exclude_self=True, scoring="bfloat16")
"""


def test_numba_serves_floats_on_a_cpu():
    assert numba_refuses(torch.zeros(3)) is None
    assert numba_refuses(torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)) is None
    assert "float16" in numba_refuses(torch.zeros(3), torch.zeros(3, dtype=torch.float16))
    assert "meta" in numba_refuses(torch.zeros(3, device="meta"))
    with without("numba"):
        assert numba_refuses(torch.zeros(3)) is not None


def test_numba_is_left_alone_where_the_environment_says_so():
    ask = SEARCH + "print('numba' in sys.modules, numba_refuses(rows) is None)"
    assert said_by(ask) == ["True", "True"]
    assert said_by(ask, GRAPHCORRECT_NUMBA="0") == ["False", "False"]


def test_without_numba_the_answer_is_the_same():
    ask = SEARCH + "print(found.index.sum().item(), numba_refuses(rows) is None)"
    assert said_by("import sys; sys.modules['numba'] = None" + ask) == [said_by(ask)[0], "False"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_process_forked_after_a_loop_ran_does_without():
    fork = """
import os
print(numba_refuses(rows) is None, flush=True)
if (child := os.fork()) == 0:
    torch.set_num_threads(1)  # as a DataLoader's worker does
    again = knn(rows, None, 5, exclude_self=True, scoring="bfloat16")
    print(numba_refuses(rows) is None, torch.equal(again.index, found.index), flush=True)
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
    assert numba_refuses(torch.ones(1)) is None  # which runs one, the first time that it is asked
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


def test_what_numba_keeps_is_not_kept_where_it_could_be_stale(monkeypatch):
    compiled = []
    monkeypatch.setattr(numba, "njit", lambda function, **settings: compiled.append(settings) or function)
    values = torch.zeros(3)
    _numba_loops.loop(lambda given: given.fill(7.0))(values)
    assert values.tolist() == [7.0] * 3
    assert [settings.get("cache", False) for settings in compiled] == [True, False]


QUANTIZE = """
import sys; sys.path.insert(0, sys.argv[1])
import numpy, torch
from graphcorrect.ops.kernels.cpu import quantize
assert quantize.__file__.startswith(sys.argv[1])
rows, order = torch.linspace(-1, 1, 12).view(1, 12), torch.zeros(1, dtype=torch.int64)
written = torch.empty(1, 12, dtype=torch.int8)
steps, norm, error = torch.full((1,), 0.3), torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
quantize.quantize(rows, order, torch.zeros(12), written, steps, norm, error)
print(float(error))
"""


def test_a_kernel_changed_in_place_is_compiled_again_with_all_that_call_it(tmp_path):
    shutil.copytree(
        Path(graphcorrect.__file__).parent, tmp_path / "graphcorrect", ignore=shutil.ignore_patterns("__pycache__")
    )
    rows = tmp_path / "graphcorrect/ops/kernels/cpu/rows.py"

    def error():
        command = [sys.executable, "-c", QUANTIZE, str(tmp_path)]
        environment = {
            name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "NUMBA_CACHE_DIR")
        }
        found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
        assert found.returncode == 0, found.stderr
        return float(found.stdout)

    first = error()
    assert list(tmp_path.rglob("quantize._to_int8*.nbc"))
    assert error() == first
    source = rows.read_text()
    assert source.count("    return total\n") == 1  # of `dot`, which the kernel calls
    rows.write_text(source.replace("    return total\n", "    return 4 * total\n"))
    assert error() == pytest.approx(2 * first)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16])
@given(lower=st.lists(st.floats(-4.0e9, 4.0e9), min_size=1, max_size=20))
def test_a_bound_as_a_score_is_torch_s_and_no_larger(lower, dtype):
    lower = torch.tensor([*lower, -torch.inf, torch.inf, torch.nan, 0.0], dtype=torch.float64)
    expected = filtered_search._as_score(lower, dtype)
    word = torch.empty(1).numpy()
    assert [numba_filter.as_score(each, dtype == torch.int32, word) for each in lower.tolist()] == expected.tolist()
    known = (expected < torch.iinfo(dtype).max) & lower.isfinite()
    score = expected if dtype == torch.int32 else expected.view(torch.bfloat16)
    assert (score.double()[known] <= lower[known]).all()


@pytest.mark.parametrize("best_candidates", [numba_filter.best_candidates, filtered_search.best_candidates])
def test_few_keys_are_scored_in_float32_and_the_best_of_them_are_the_best_of_all(best_candidates):
    centers, labels = random_features(5, 32, seed=3), torch.arange(640) % 5
    rows = unit_rows((centers[labels] + 0.3 * random_features(640, 32, seed=5)).float())
    keys = quantized.quantize_keys(rows, torch.int8, None)
    queries, bounds = quantized.quantize_queries(rows, keys, None)
    scores = torch._int_mm(queries, keys.rows.mT)
    similarity, index = torch.empty(640, 5), torch.empty(640, 5, dtype=torch.int64)
    counts = best_candidates(
        scores, bounds, keys.permutation, torch.zeros(0).long(), rows, rows, similarity, index, 32, 8, 512
    )
    assert (counts >= 5).all()
    assert counts.float().mean() < 64
    torch.testing.assert_close(similarity, (rows @ rows.T).topk(5).values, rtol=0, atol=1e-6)
    bounds = bounds._replace(error=torch.full_like(bounds.error, torch.inf))
    arguments = (keys.permutation, torch.zeros(0).long(), rows, rows, similarity, index, 32, 8, 512)
    assert (best_candidates(scores, bounds, *arguments) < 0).all()  # no bound is known: no answer


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16])
def test_rows_are_quantized_by_numba_as_by_torch(dtype):
    rows = random_features(70, 24).float() * torch.logspace(-30, 10, 70)[:, None]
    rows[5], rows[6] = 0.0, torch.linspace(-1, 1, 24)
    rows[7] = 1 + 2.0**-8 * torch.arange(24)  # halfway between two bfloat16 numbers, every other time
    order = torch.randperm(80, generator=draw(1))
    options = {"order": order, "center": rows[10:20].mean(0), "step": 0.01}

    def by(kernels):
        return *quantized._quantize(rows, dtype, kernels), *quantized._quantize(rows[:20], dtype, kernels, **options)

    for found, expected in zip(by(numba_quantize), by(None), strict=True):
        if found.dtype == dtype:
            assert torch.equal(found, expected)
        else:
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-30)
