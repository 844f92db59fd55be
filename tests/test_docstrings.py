"""Every public entry has an example that runs and says what it says it does."""

import doctest
import importlib.util
import inspect
import json
import tempfile
from pathlib import Path

import pytest
import torch

import graphcorrect

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # torch-geometric's
MODULES = ("metrics", "nodes", "labels", "maps", "backends", "pyg", "corrector", "keys")
OPTIONAL = {"sklearn": "sklearn", "plot": "matplotlib"}  # module: what it needs


BASES = ("GraphPropagation",)  # for subclasses alone


def is_entry(module, name):
    """Whether a name of a module is its own and for users."""
    entry = getattr(module, name)
    own = f"{getattr(entry, '__module__', '')}.".startswith(f"{module.__name__}.")
    return own and callable(entry) and not name.startswith("_") and name not in BASES


def entries():
    for name in graphcorrect.__all__:
        if not inspect.ismodule(getattr(graphcorrect, name)):
            yield "", name
    for module in (*MODULES, *(name for name, needs in OPTIONAL.items() if importlib.util.find_spec(needs))):
        found = importlib.import_module(f"graphcorrect.{module}")
        yield from ((module, name) for name in vars(found) if is_entry(found, name))
    if importlib.util.find_spec("PIL"):
        yield from (("files", name) for name in graphcorrect.files.__all__)


@pytest.mark.parametrize(("module", "name"), sorted(set(entries())))
def test_the_example_of_an_entry_runs(module, name):
    home = importlib.import_module(f"graphcorrect.{module}" if module else "graphcorrect")
    entry = getattr(home, name)
    names = {each: getattr(graphcorrect, each) for each in graphcorrect.__all__} | {
        "torch": torch,
        "graphcorrect": graphcorrect,
    }
    names |= {"json": json, "tempfile": tempfile, "Path": Path}
    names |= {each: getattr(home, each) for each in dir(home) if not each.startswith("_")}
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(entry) or "", names, name, None, 0)
    assert example.examples, f"{home.__name__}.{name} has no example"
    assert not any(doctest.SKIP in each.options for each in example.examples), f"{name}: an example that is not run"
    if module == "plot":
        pytest.importorskip("matplotlib").use("Agg")
    torch.manual_seed(0)
    report = []
    doctest.DocTestRunner().run(example, out=report.append)
    assert not report, "".join(report)
