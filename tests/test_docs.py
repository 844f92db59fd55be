"""What the documentation says runs, and what it points at exists."""

import importlib
import re
from pathlib import Path

import pytest
import reference
from readme_code import python_blocks

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "docs/index.md", "docs/trainer.md", "docs/refine_masks.md"]


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs_from_top_to_bottom(page):
    blocks = python_blocks(ROOT / page)
    assert blocks
    exec(compile("\n".join(blocks), page, "exec"), {"__name__": "__main__"})


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
