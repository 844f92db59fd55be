"""The command line as a whole: help, mistakes, `bench`, `info` and `demo`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("tqdm")
pytest.importorskip("PIL")

from refine_photos import answer  # noqa: E402

from graphcorrect.cli import bench  # noqa: E402
from graphcorrect_cli import main as command_line  # noqa: E402

ROOT = Path(__file__).parent.parent


def test_help_imports_no_torch():
    for arguments in (["--help"], ["refine", "--help"], ["demo", "-h"]):
        code = (
            "import sys; from graphcorrect_cli.main import main\n"
            f"try: main({arguments})\nexcept SystemExit as stopped: assert not stopped.code\n"
            "assert not {'torch', 'numpy', 'graphcorrect'} & set(sys.modules), 'loaded'"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "usage: graphcorrect" in done.stdout


def test_every_command_is_in_the_help_and_has_defaults_in_its_own(capsys):
    code, text = answer([], capsys)
    assert code == 0
    for name in command_line.COMMANDS:
        assert re.search(rf"^ +{name} ", text, re.MULTILINE)
        code, own = answer([name, "--help"], capsys)
        assert code == 0
    assert "default: 0.2" in answer(["refine", "--help"], capsys)[1]
    assert answer(["--version"], capsys)[1].startswith("graphcorrect ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["refin"], "invalid choice: 'refin'"),
        (["refin"], "did you mean refine?"),
        (["refine", "--out", "x", "--prediction", "y"], "no such option: --prediction; did you mean --predictions?"),
        (["refine"], "--out"),
        (["bench", "--node", "5"], "no such option: --node; did you mean --nodes?"),
        (["bench", "--nodes", "many"], "--nodes: expected a whole number of at least 1, got 'many'"),
        (["bench", "--nodes", "20"], "expected --neighbors of at most 19, the keys of a node, got 20"),
        (["bench", "--nodes", "9" * 30], "--nodes: expected a whole number"),
        (["demo", "--labeled", "1"], "--labeled: expected a whole number of at least 2"),
        (["info", "extra"], "no such option: extra"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, message):
    code, text = answer(arguments, capsys)
    assert code in (1, 2)
    assert message in text
    assert "Traceback" not in text


def test_what_is_missing_is_named_with_its_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    for name in ("refine", "demo", "issues"):
        monkeypatch.delitem(sys.modules, f"graphcorrect.cli.{name}", raising=False)
    code, text = answer(["demo", "--out", "nowhere"], capsys)
    assert code == 1
    assert 'needs tqdm: pip install "graphcorrect[cli]"' in text


def test_info_names_versions_devices_and_what_serves(capsys):
    code, text = answer(["info"], capsys)
    assert code == 0
    assert f"PyTorch {torch.__version__}" in text
    assert "devices:\n  cpu" in text
    assert "what serves each operation, for float32 of shape (4096, 256) on cpu:" in text
    assert re.search(r"^  neighbors +\w+$", text, re.MULTILINE)


@pytest.mark.parametrize("more", [[], ["--keys", "900"], ["--batch", "2", "--dtype", "bfloat16"]])
def test_bench_compares_answers_and_times(capsys, more):
    arguments = ["bench", "--nodes", "300", "--dim", "32", "--neighbors", "5", "--repeats", "2", "--device", "cpu"]
    code, text = answer([*arguments, *more], capsys)
    assert code == 0, text
    assert "served by " in text
    assert re.search(r"^  graphcorrect +[\d.]+ ms  \([\d.]+ to [\d.]+\)$", text, re.MULTILINE)
    assert re.search(r"^  product and topk +[\d.]+ ms .* of the time of graphcorrect$", text, re.MULTILINE)
    assert "differ" not in text


def test_bench_says_why_something_was_not_timed(monkeypatch):
    nodes = torch.randn(1, 50, 8)
    monkeypatch.setattr(bench, "MOST_SCORES", 10)
    searches, left_out = bench.candidates(nodes, None, 3)
    assert "product and topk" not in searches
    assert "GiB" in left_out["product and topk"]
    right = bench.product_and_topk(nodes, None, 3)
    lines = bench.table({"ours": lambda: right, "theirs": lambda: right + 0.1}, 2)
    assert lines[1].endswith("theirs                 not timed: its similarities differ by 0.1")

    def failing():
        raise RuntimeError("no such instruction")

    lines = bench.table({"ours": lambda: right, "theirs": failing}, 2)
    assert "not timed: no such instruction" in lines[1]
    expected = (torch.nn.functional.normalize(nodes, dim=-1) @ torch.nn.functional.normalize(nodes, dim=-1).mT)[0]
    expected = expected.masked_fill(torch.eye(50, dtype=torch.bool), -2).sort(descending=True).values[:, :3]
    torch.testing.assert_close(right[0], expected)


def test_the_demo_ends_in_a_picture_that_it_names(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    image = pytest.importorskip("PIL.Image")
    arguments = ["demo", "--out", tmp_path / "d", "--labeled", "6", "--steps", "4", "--scenes", "2", "--device", "cpu"]
    code, text = answer(list(map(str, arguments)), capsys)
    assert code == 0, text
    assert re.search(r"2 scenes: mIoU [\d.]+ -> [\d.]+; [\d,]+ labels fixed, [\d,]+ broken", text)
    assert f"open {tmp_path / 'd/demo.png'}" in text
    with image.open(tmp_path / "d/demo.png") as picture:
        assert picture.width > 600
    (tmp_path / "file").write_text("")
    assert answer(["demo", "--out", str(tmp_path / "file")], capsys)[0] == 2
