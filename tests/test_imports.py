"""The layers of the package, read from the imports, and what `import graphcorrect` does not import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import graphcorrect

PACKAGE = Path(graphcorrect.__file__).parent

# A file imports only from files above it.
LAYOUT = """
_typing _checks _numba_loops _eager _precision _triton_rows _numba_rows
nodes labels distributed
knn._torch knn._numba_round knn._rounded knn._numba_sift knn._screen
knn._triton_entries knn._triton_round knn._triton_select knn._triton_sift knn._triton knn._faiss knn.search
graphs.operator graphs._numba_sort graphs.neighbor graphs._numba_blocks graphs._blocks graphs._numba_class_block
graphs.class_block graphs.affinity graphs.consistency
_mlp _row_maps _numba_correct _numba_tighten propagate
threshold prototypes anchors guided refined_labels refiner_input refine teacher
losses._reduce losses._numba_pairs losses.slg losses.clg losses.correction metrics
pyg _missing sklearn
plot._axes plot._classes plot._images plot.edges plot.outcomes plot.histories plot.plane
""".split()

FILES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
)


def imported_files(name):
    """The files of this package that a file imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / (name.replace(".", "/") + ".py")).read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import in line {node.lineno}"
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        found |= {m.removeprefix("graphcorrect.") for m in modules if m.startswith("graphcorrect.")}
        assert "graphcorrect" not in modules or isinstance(node, ast.ImportFrom), f"{name}: line {node.lineno}"
    packages = {"knn", "graphs", "losses", "plot"}
    assert not {p for p in packages & found if not any(f.startswith(p + ".") and f in FILES for f in found)}, (
        f"{name} imports from a package's __init__, which only re-exports"
    )
    return found & set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_file_imports_only_from_files_above_it(name):
    assert name in LAYOUT, f"{name} has no place among the layers"
    above = LAYOUT[: LAYOUT.index(name)]
    below = imported_files(name) - set(above)
    assert not below, f"{name} imports {sorted(below)}, which stand below it"


def test_the_reader_of_imports_sees_imports():
    assert {"_checks", "graphs.affinity", "propagate", "threshold"} <= imported_files("refine")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=lambda p: p.parent.name)
def test_init_files_only_re_export(path):
    for statement in ast.parse(path.read_text()).body:
        is_docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        is_dunder = isinstance(statement, ast.Assign) and statement.targets[0].id in ("__all__", "__version__")
        assert is_docstring or is_dunder or isinstance(statement, ast.ImportFrom), f"line {statement.lineno} of {path}"


def test_importing_graphcorrect_imports_no_optional_package():
    packages = ["faiss", "torch_geometric", "matplotlib", "sklearn", "torchvision", "triton", "numba"]
    # Some come with torch on some builds: only what graphcorrect adds counts
    code = "import sys, torch; before = set(sys.modules); import graphcorrect; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, check=True, capture_output=True, text=True)
    imported = set(done.stdout.split())
    assert "graphcorrect.refine" in imported
    assert imported.isdisjoint(packages)


def test_the_public_names_are_those_of_the_design():
    assert set(graphcorrect.__all__) >= {
        "AnchorBank",
        "CLGLoss",
        "ClassConsistencyGraph",
        "DualGraphRefiner",
        "DynamicThreshold",
        "EMATeacher",
        "GraphOperator",
        "KNNAffinity",
        "LabelCorrectionLoss",
        "PrototypeBank",
        "RefinedLabels",
        "SLGLoss",
        "clg_loss",
        "knn",
        "metrics",
        "slg_loss",
    }
    assert all(getattr(graphcorrect, name).__doc__ for name in graphcorrect.__all__)
    assert callable(graphcorrect.knn)  # the function, not the package of that name


def test_losses_and_metrics_take_tensors_never_a_bank():
    for name in FILES:
        if name.startswith("losses.") or name == "metrics":
            assert not imported_files(name) & {"prototypes", "anchors", "threshold"}, name


def test_only_graph_files_know_which_graph_they_hold():
    kinds = {"graphs.neighbor", "graphs.class_block"}
    users = {name for name in FILES if imported_files(name) & kinds}
    assert users == {"graphs.affinity", "graphs.consistency"}
