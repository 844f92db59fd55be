"""The console script `graphcorrect`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from graphcorrect_cli import bench, demo, info, issues, refine
from graphcorrect_cli.parser import Parser

COMMANDS = {
    "refine": (refine, "correct the masks of a network, or those it has saved"),
    "issues": (issues, "find annotations that look wrong"),
    "bench": (bench, "time neighbor search at your sizes: what serves, and why"),
    "demo": (demo, "see it work on scenes of handwritten digits, in under two minutes"),
    "info": (info, "versions, devices, and what serves each operation here"),
}


def parser() -> Parser:
    """The whole command line."""
    whole = Parser(prog="graphcorrect", description="Correct wrong labels with graphs, and with pixels that are known.")
    whole.add_argument("--version", action="store_true", help="print the version")
    commands = whole.add_subparsers(dest="command", title="commands", metavar="COMMAND", parser_class=Parser)
    for name, (module, text) in COMMANDS.items():
        whole.commands[name] = commands.add_parser(name, help=text)
        module.add_to(whole.commands[name])
    return whole


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command of a command line; exits with 2 for wrong options, 1 for other faults, 130 for Ctrl-C."""
    whole = parser()
    args = whole.parse_all(arguments)
    if args.version:
        from importlib.metadata import version

        print(f"graphcorrect {version('graphcorrect')}")
        return
    if args.command is None:
        whole.print_help()
        return
    module, _ = COMMANDS[args.command]
    module.check(whole.commands[args.command], args)
    if "torch" not in sys.modules:
        print(f"graphcorrect {args.command}: loading PyTorch", file=sys.stderr, flush=True)
    try:
        command = importlib.import_module(f"graphcorrect.cli.{args.command}")
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("graphcorrect"):
            raise
        how = 'pip install "graphcorrect[cli]", or from a clone pip install ".[cli]"'
        sys.exit(f"error: `graphcorrect {args.command}` needs {error.name}: {how}")
    command.run(args)


if __name__ == "__main__":
    main()
