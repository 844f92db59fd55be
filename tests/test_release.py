"""What a release says of itself agrees: version and date, badges, what is installed and what is asked for."""

import datetime
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import graphcorrect

ROOT = Path(__file__).parent.parent


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def released():
    """Versions and dates of the changelog, newest first; what is unreleased has none."""
    return re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})$", text("CHANGELOG.md"), flags=re.MULTILINE)


def test_the_changelog_begins_with_this_version_or_with_what_is_unreleased():
    headings = re.findall(r"^## \[(.+?)\]", text("CHANGELOG.md"), flags=re.MULTILINE)
    assert headings[0] in ("Unreleased", graphcorrect.__version__)
    assert len(headings) == len(set(headings))
    versions = [tuple(map(int, version.split("."))) for version, _ in released()]
    assert versions == sorted(versions, reverse=True)
    dates = [datetime.date.fromisoformat(date) for _, date in released()]
    assert dates == sorted(dates, reverse=True)


def test_the_citation_is_that_of_this_version_and_of_its_date():
    citation = text("CITATION.cff")
    assert re.search(r"^version: (.+)$", citation, flags=re.MULTILINE)[1] == graphcorrect.__version__
    date = re.search(r"^date-released: \"?(\d{4}-\d{2}-\d{2})\"?$", citation, flags=re.MULTILINE)
    expected = dict(released()).get(graphcorrect.__version__)
    assert (date[1] if date else None) == expected


def test_the_badges_are_true():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads(text("pyproject.toml"))
    badges = dict(re.findall(r"badge/(\w+)-([^-)]+?)(?:-\w+)?\)", text("README.md")))
    assert badges["license"] == project["project"]["license"]
    assert f">={badges['python'].split('%')[0]}" == project["project"]["requires-python"]
    assert f"torch>={badges['PyTorch'].split('%')[0]}" in project["project"]["dependencies"]
    assert project["tool"]["mypy"]["strict"]
    assert (Path(graphcorrect.__file__).parent / "py.typed").exists()
    assert sys.version_info >= (3, 10)


def test_the_workflow_runs_what_a_contributor_runs():
    yaml = pytest.importorskip("yaml")
    jobs = yaml.safe_load(text(".github/workflows/ci.yml"))["jobs"]
    commands = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert commands.pop("run") == [".ci/run"]
    assert set(commands) == {"oldest", "plain", "audit"}
    assert ".ci/package_tests python" in commands["oldest"]
    assert ".ci/package_tests python -n 2" in commands["plain"]
    asked = " ".join(commands["plain"])
    assert not [name for name in ("numba", "faiss", "triton", "scatter", "[") if name in asked]


def test_a_plain_environment_lacks_what_is_optional(tmp_path):
    """Made of links into this one, which has them; whatever asks finds nothing, processes that it starts too."""
    if os.name != "posix" or sys.prefix == sys.base_prefix:
        pytest.skip("needs a virtual environment to link into, and a shell")
    subprocess.run([ROOT / ".ci/plain_venv", sys.prefix, tmp_path / "plain"], check=True, capture_output=True)
    code = "from importlib.util import find_spec; import torch; print([*map(find_spec, ('numba', 'faiss', 'triton'))])"
    asked = [tmp_path / "plain/bin/python", "-c", code]
    found = subprocess.run(asked, check=True, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert found.stdout.strip() == "[None, None, None]"


def test_no_weights_are_shipped_and_the_readme_says_so():
    assert "No pretrained weights are shipped" in text("README.md")
    endings = (".pt", ".pth", ".ckpt", ".safetensors", ".onnx", ".bin")
    folders = ("graphcorrect", "examples", "tests", "docs", "benchmarks")
    assert not [path for folder in folders for path in (ROOT / folder).rglob("*") if path.name.endswith(endings)]
