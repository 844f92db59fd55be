"""What the documentation says runs, and what it points at exists."""

import hashlib
import importlib
import re
from pathlib import Path

import pytest
import reference
from readme_code import python_blocks

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
WITH_CODE = [page.relative_to(ROOT).as_posix() for page in PAGES if python_blocks(page)]


# what frameworks say of one another's newest releases
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("page", WITH_CODE)
def test_the_code_of_a_page_runs_from_top_to_bottom(page):
    blocks = python_blocks(ROOT / page)
    exec(compile("\n".join(blocks), page, "exec"), {"__name__": "__main__"})


def test_the_reader_of_pages_sees_their_code():
    assert {"README.md", "docs/index.md", "docs/trainer.md", "docs/integrations/pyg.md"} <= set(WITH_CODE)
    for page in PAGES:  # and no fence that it would miss: indented, or under another name
        text = page.read_text(encoding="utf-8")
        assert len(python_blocks(page)) == len(
            re.findall(r"```\s*\{?(?:python|py|pycon|code-block\}? python)\b", text)
        ), page


def test_every_page_is_in_the_table_of_contents():
    listed = []
    for index in (DOCS / "index.md", DOCS / "api/index.md"):
        tables = re.findall(r"```{toctree}\n(?::[^\n]*\n)*\n(.*?)```", index.read_text("utf-8"), flags=re.DOTALL)
        listed += [(index.parent / entry).relative_to(DOCS).as_posix() for table in tables for entry in table.split()]
    assert len(listed) == len(set(listed))
    assert {*listed, "index"} == {page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.rglob("*.md")}


def headings(page):
    """The anchors of a page's headings, as GitHub and the site make them."""
    lines = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE).splitlines()
    titles = [line.lstrip("#").strip().lower() for line in lines if re.match(r"#{1,6} ", line)]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [page.relative_to(ROOT).as_posix() for page in [*ROOT.glob("*.md"), *PAGES[1:]]])
def test_links_to_files_and_headings_lead_somewhere(page):
    page = ROOT / page
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert target.is_relative_to(ROOT), f"{page.name}: {link}"
        assert not heading or heading in headings(target), f"{page.name}: {link}"


def test_the_tables_of_reliability_are_those_of_the_committed_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    page = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    for table in importlib.import_module("list_reliability").TABLES:
        assert table() in page, table.__name__


@pytest.mark.parametrize(
    ("picture", "results"),
    [
        ("backends", ["xeon-amx/knn_throughput"]),
        ("backends_gpu", ["h200/knn_throughput"]),
        ("scaling", ["xeon-amx/scaling"]),
        ("noise", ["label_correction_noise"]),
        ("frozen", ["label_correction_frozen"]),
        ("training", ["label_correction_training", "label_correction_training_digits"]),
        ("hearts", [f"label_correction_training_acdc_{end}" for end in ("3", "3_fading", "3_mllc", "1", "7")]),
    ],
)
def test_a_picture_of_measurements_is_that_of_the_committed_results(picture, results):
    image = pytest.importorskip("PIL.Image")
    source = b"".join((ROOT / f"benchmarks/results/{name}.json").read_bytes() for name in results)
    with image.open(DOCS / f"images/{picture}.png") as drawn:
        assert drawn.text["Source"] == hashlib.sha256(source).hexdigest(), (
            f"run python docs/figures/{picture.removesuffix('_gpu')}.py"
        )


def equation_rows():
    lines = (DOCS / "equations.md").read_text(encoding="utf-8").splitlines()
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
