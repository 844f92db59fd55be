"""What the documentation says runs, and what it points at exists."""

import hashlib
import importlib
import re
from pathlib import Path

import pytest
import reference
from readme_code import python_blocks

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    *(f"docs/{name}.md" for name in "index trainer refine_masks concepts backends migration pictures".split()),
]


# torch-geometric's own, as in test_pyg.py
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs_from_top_to_bottom(page):
    blocks = python_blocks(ROOT / page)
    assert blocks
    exec(compile("\n".join(blocks), page, "exec"), {"__name__": "__main__"})


def test_every_page_with_code_is_among_them():
    with_code = {path for path in (ROOT / "docs").glob("*.md") if python_blocks(path)}
    assert {path.relative_to(ROOT).as_posix() for path in with_code} <= set(PAGES)


def test_every_page_is_in_the_table_of_contents():
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    listed = re.search(r"```{toctree}\n:maxdepth: 1\n\n(.*?)```", index, flags=re.DOTALL)[1].split()
    assert {*listed, "index"} == {path.stem for path in (ROOT / "docs").glob("*.md")}


def test_the_picture_of_the_backends_is_that_of_the_committed_results():
    image = pytest.importorskip("PIL.Image")
    results = (ROOT / "benchmarks/results/knn_throughput.json").read_bytes()
    with image.open(ROOT / "docs/images/backends.png") as picture:
        assert picture.text["Source"] == hashlib.sha256(results).hexdigest(), "run python docs/figures/backends.py"


def equation_rows():
    lines = (ROOT / "docs/equations.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "::" in line]
    return [pytest.param(*(cell.strip("`") for cell in row[2:]), id=row[0]) for row in rows]


@pytest.mark.parametrize(("name", "naive", "test"), equation_rows())
def test_every_equation_has_the_code_reference_and_test_it_names(name, naive, test):
    module, _, attribute = name.rpartition(".")
    assert hasattr(importlib.import_module(module), attribute)
    assert hasattr(reference, naive)
    file, _, function = test.partition("::")
    assert re.search(rf"^def {function}\(", (ROOT / "tests" / file).read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_every_equation_of_the_paper_that_we_use_is_listed():
    listed = {cell for row in equation_rows() for cell in re.findall(r"\d+", row.id or "")}
    assert listed >= {str(number) for number in range(2, 18)}
