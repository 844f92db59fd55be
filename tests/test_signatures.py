"""Names, order, kinds and defaults of all public arguments: what users' code relies on, and so a change on purpose.

`python tests/test_signatures.py` writes `signatures.txt` anew.
"""

import inspect
from pathlib import Path

import graphcorrect
from graphcorrect import metrics

WRITTEN = Path(__file__).parent / "signatures.txt"


def arguments(function):
    """A signature without its annotations."""
    signature = inspect.signature(function)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def public(owner, prefix):
    """Every function, class and method, a line each."""
    names = getattr(owner, "__all__", None) or [name for name in vars(owner) if not name.startswith("_")]
    for name in sorted(names):
        member = inspect.getattr_static(owner, name)
        if isinstance(member, (classmethod, staticmethod)):
            member = member.__func__
        if not getattr(member, "__module__", "graphcorrect").startswith("graphcorrect"):
            continue  # imported
        if inspect.isclass(member) and issubclass(member, tuple):  # a named tuple
            yield f"{prefix}{name}: {', '.join(member._fields)}"
        elif inspect.isclass(member):
            yield f"{prefix}{name}{arguments(member)}"
            yield from public(member, f"{prefix}{name}.")
        elif isinstance(member, property):
            yield f"{prefix}{name}: property"
        elif inspect.isfunction(member):
            yield f"{prefix}{name}{arguments(member)}"


def lines():
    return [*public(graphcorrect, ""), *public(metrics, "metrics.")]


def test_public_arguments_are_as_written_down():
    assert lines() == WRITTEN.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    WRITTEN.write_text("\n".join(lines()) + "\n", encoding="utf-8")
