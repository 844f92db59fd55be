"""The layers of the package, read from the imports, and what `import graphcorrect` does not import."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import graphcorrect

PACKAGE = Path(graphcorrect.__file__).parent

# A file imports only from files above it.
LAYOUT = """
ops.typing ops.search ops.values _checks ops.kernels.cpu._compile ops._dispatch
ops.kernels.cuda.launching
ops.kernels.cpu.rows ops.kernels.cuda.rows ops.unit_rows
ops.kernels.cuda.edges ops.neighbor_product ops.edge_weights
ops.kernels.cpu.class_blocks ops.kernels.cuda.class_blocks ops.class_layout ops.class_product ops.class_weights
ops.kernels.cuda.labels ops.label_mix
ops.kernels.cpu.pairs ops.pair_sum ops.majority_vote
ops.kernels.cpu.quantize ops.kernels.cpu.quantized ops.kernels.cpu.filter ops.kernels.cpu.topk
ops.kernels.cpu.filtered_search ops.kernels.cuda.packing ops.kernels.cuda.quantize ops.kernels.cuda.rescore
ops.kernels.cuda.topk_filter ops.kernels.cuda.topk ops.kernels.faiss ops.neighbors ops.knn
nodes labels metrics distributed pixel_features _buffers _copies _settings
graphs.operator graphs.neighbor graphs.class_block graphs.affinity graphs.consistency
guided functional maps threshold
banks.prototypes banks._reservoir banks._lookup banks.anchors banks.presets banks._choice banks.calibration
cells _image_sources _label_posterior label_issues
refined_labels refiner_input refiner_grid refine teacher
keys encoders _hub corrected_labels corrector_input corrector_state corrector
losses._reduce losses.slg losses.clg losses.correction backends
_missing pyg sklearn
plot._drawing plot.edges plot.outcomes plot.histories plot.plane
files.text files.faults files.saving files.results files.folders files.class_tables
files.class_names
files.label_maps files._pictures files.images files.stored_masks files.masks
files.arrays files.probabilities files.items files.checker files.brush files.label_studio
files.archives files.pairs files.dataset_yaml files.datasets
cli.console cli.devices cli.digits cli.changes cli.masks cli.scores cli.shares cli.models cli.correcting cli.refine
cli.issues cli.bench cli.info cli.demo
__main__
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
    packages = {"cli", "files", "graphs", "losses", "ops", "plot"}
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
    assert {"_checks", "graphs.affinity", "maps", "threshold"} <= imported_files("refine")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=lambda p: p.parent.name)
def test_init_files_only_re_export(path):
    for statement in ast.parse(path.read_text()).body:
        is_docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        is_dunder = isinstance(statement, ast.Assign) and statement.targets[0].id in ("__all__", "__version__", "_LAZY")
        is_hook = isinstance(statement, ast.FunctionDef) and statement.name in ("__getattr__", "__dir__")
        re_exports = is_docstring or is_dunder or is_hook or isinstance(statement, ast.ImportFrom)
        assert re_exports, f"line {statement.lineno} of {path}"


def test_importing_graphcorrect_imports_no_optional_package():
    packages = [
        "faiss",
        "torch_geometric",
        "matplotlib",
        "sklearn",
        "torchvision",
        "triton",
        "numba",
        "PIL",
        "tqdm",
        "yaml",
    ]
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
            assert not imported_files(name) & {"banks.prototypes", "banks.anchors", "threshold"}, name


def test_only_graph_files_know_which_graph_they_hold():
    kinds = {"graphs.neighbor", "graphs.class_block"}
    users = {name for name in FILES if imported_files(name) & kinds}
    assert users == {"graphs.affinity", "graphs.consistency"}


def test_only_operations_know_of_devices_kernels_and_compilers():
    words = re.compile(r"numba|triton|is_cuda|is_compiling|device\.type", re.IGNORECASE)
    for name in (name for name in FILES if not name.startswith("ops.")):
        source = (PACKAGE / (name.replace(".", "/") + ".py")).read_text()
        code = "\n".join(ast.unparse(node) for node in without_docstrings(source).body)
        assert not words.search(code), f"{name}: {words.search(code)}"


def without_docstrings(source):
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            body[0].value.value = ""
    return tree


def test_no_file_is_longer_than_350_lines():
    lengths = {name: len((PACKAGE / (name.replace(".", "/") + ".py")).read_text().splitlines()) for name in FILES}
    assert {name: length for name, length in lengths.items() if length > 350} == {}
