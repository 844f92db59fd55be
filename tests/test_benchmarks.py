"""What the benchmarks write down: the commit, the device's folder, and what counts as a launch."""

import argparse
import importlib
import json
import subprocess
from pathlib import Path

import pytest
import torch

from graphcorrect.ops import _dispatch

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results"
if not RESULTS.is_dir():
    pytest.skip("benchmarks are not at hand", allow_module_level=True)


@pytest.fixture
def helper(monkeypatch):
    """Imports one of the benchmarks' own files."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


@pytest.fixture
def repository(tmp_path):
    """A repository with code and a result committed."""
    for path in ("code.py", "benchmarks/results/xeon/speed.json", "tests/results/fuzz.json"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("1\n", encoding="utf-8")
    run = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "Begin"]):
        subprocess.run([*run, *command], cwd=tmp_path, check=True)
    return tmp_path


def test_results_and_new_files_do_not_make_a_commit_dirty_and_code_does(helper, repository):
    commit = helper("_records").commit
    name = commit(repository)
    assert len(name) >= 7
    assert not name.endswith("-dirty")
    (repository / "benchmarks/results/xeon/speed.json").write_text("2\n", encoding="utf-8")
    (repository / "tests/results/fuzz.json").unlink()
    (repository / "notes.txt").write_text("untracked\n", encoding="utf-8")
    assert commit(repository) == name
    (repository / "code.py").write_text("2\n", encoding="utf-8")
    assert commit(repository) == f"{name}-dirty"
    subprocess.run(["git", "add", "code.py"], cwd=repository, check=True)
    assert commit(repository) == f"{name}-dirty"


def test_without_a_repository_the_commit_is_unknown(helper, tmp_path):
    assert helper("_records").commit(tmp_path) == "unknown"


def test_a_second_run_does_not_see_the_first_ones_result(helper, repository, monkeypatch):
    records = helper("_records")
    monkeypatch.setattr(records.commit, "__defaults__", (repository,))
    commits = []
    for _ in range(2):
        path = records.save_record(
            "speed", {}, device=torch.device("cpu"), folder=repository / "benchmarks/results/xeon"
        )
        commits.append(json.loads(path.read_text(encoding="utf-8"))["commit"])
    assert commits[0] == commits[1]
    assert not commits[0].endswith("-dirty")


def test_a_record_does_not_say_where_a_machine_keeps_its_files(helper, tmp_path):
    settings = {"recipe": {"data": {"folder": "/data/of/me/camvid", "labeled": "1/8"}, "scales": (1.0, 2.0)}}
    place = {"device": torch.device("cpu"), "folder": tmp_path}
    path = helper("_records").save_record("speed", {}, **place, **settings, runs=tmp_path / "runs")
    kept = json.loads(path.read_text(encoding="utf-8"))["settings"]
    assert kept == {"recipe": {"data": {"folder": "camvid", "labeled": "1/8"}, "scales": [1.0, 2.0]}, "runs": "runs"}


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({"cpu": "Intel(R) Xeon(R) Processor", "instructions": ["avx2", "avx512f", "avx512_vnni"]}, "xeon-avx512"),
        ({"cpu": "Intel(R) Xeon(R) Gold 6448Y", "instructions": ["avx2", "avx512f", "amx_int8"]}, "xeon-amx"),
        ({"cpu": "AMD EPYC 7763 64-Core Processor", "instructions": ["avx2"]}, "epyc-avx2"),
        ({"cpu": "AMD Ryzen 9 7950X", "instructions": ["avx2", "avx512f", "avx512_bf16"]}, "ryzen-avx512"),
        ({"cpu": "arm64", "instructions": []}, "cpu"),
        ({"cpu": "Intel(R) Xeon(R) Processor", "gpu": "NVIDIA H200"}, "h200"),
    ],
)
def test_a_device_has_a_folder_of_its_own(helper, facts, name):
    assert helper("_records").device_name(facts) == name


def test_committed_results_lie_in_the_folder_of_their_device_and_name_a_clean_commit(helper):
    device_name = helper("_records").device_name
    found = {path.relative_to(RESULTS).with_suffix("").as_posix(): path for path in RESULTS.rglob("*.json")}
    assert len(found) > 20
    for name, path in found.items():
        record = json.loads(path.read_text(encoding="utf-8"))
        assert record["benchmark"].startswith(path.stem.split("_training")[0]), name
        assert not record.get("commit", "").endswith("-dirty"), name
        if path.parent != RESULTS and record["device"].get("instructions"):
            assert device_name(record["device"]) == path.parent.name, name


def test_an_operation_inside_another_is_counted_once(helper):
    outermost = helper("_launches").outermost
    spans = [
        (0, 0.0, 9.0, "aten::linear"),
        (0, 1.0, 5.0, "aten::addmm"),
        (0, 9.0, 12.0, "aten::matmul"),  # counted by what it calls
        (0, 10.0, 11.0, "aten::mm"),
        (1, 2.0, 3.0, "aten::mm"),
    ]
    assert outermost(spans, lambda name: name != "aten::matmul") == {"linear": 1, "mm": 2}


def test_views_and_what_is_made_of_others_have_no_kernel_of_their_own(helper):
    has_kernel = helper("_launches").has_kernel
    assert all(map(has_kernel, ("aten::add", "aten::bmm", "aten::scatter_", "aten::sort", "aten::_softmax")))
    assert not any(map(has_kernel, ("aten::view", "aten::t", "aten::matmul", "aten::no_such", "other::add")))


def test_operations_are_counted_also_inside_custom_ones_and_those_with_triton_as_one(helper, monkeypatch):
    monkeypatch.setattr(_dispatch, "OPERATIONS", {})
    twice = _dispatch.Operation("twice_and_one", lambda values: values.mul(2).add(1))

    @torch.library.custom_op("graphcorrect::counted_in_a_test", mutates_args=())
    def twice_and_one(values: torch.Tensor) -> torch.Tensor:
        return twice(values)

    operations = helper("_launches").operations
    values = torch.ones(3, 4)

    def step():
        return twice_and_one(values).t().sum()

    assert operations(step) == {"mul": 1, "add": 1, "sum": 1}
    assert operations(step, ["twice_and_one"]) == {"graphcorrect::twice_and_one": 1, "sum": 1}
    assert operations(step, ["other"]).total() == 3


@pytest.mark.gpu
def test_launches_are_those_of_the_gpu(helper):
    values = torch.ones(300, 400, device="cuda")
    assert helper("_launches").launches(lambda: values.mul(2).add(1).t()).total() == 2


def test_launches_counts_every_layer_and_a_training_step(helper, tmp_path, monkeypatch, capsys):
    benchmark = helper("launches")
    monkeypatch.setattr("sys.argv", ["launches.py", "--smoke", "--out", str(tmp_path)])
    benchmark.main()
    record = json.loads((tmp_path / "launches.json").read_text(encoding="utf-8"))
    counts = {each["name"]: each["operations"] for each in record["counts"]}
    assert {"KNNAffinity", "DualGraphRefiner", "SLGLoss", "AnchorBank.update", "training step"} <= set(counts)
    for name, sides in counts.items():
        assert 0 < sides["dense"]["torch"] == sides["dense"]["triton"], name  # no kernel of ours is in it
        assert 0 < sides["graphcorrect"]["triton"] <= sides["graphcorrect"]["torch"], name
    assert "training step" in capsys.readouterr().out
    assert not _dispatch._ruled_out


@pytest.mark.parametrize("order", [["--smoke"], ["--smoke", "--out", "there"], ["--out", "there", "--smoke"]])
def test_a_smoke_run_leaves_the_committed_results_alone(helper, order):
    records = helper("_records")
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=records.RESULTS)
    parser.add_argument("--smoke", action=records.Smoke)
    assert parser.parse_args([]) == argparse.Namespace(out=records.RESULTS, smoke=False)
    args = parser.parse_args(order)
    assert args.smoke
    assert args.out == Path("there") if "--out" in order else args.out.is_dir() and args.out != records.RESULTS
