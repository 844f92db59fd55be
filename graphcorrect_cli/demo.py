"""Options of `graphcorrect demo`."""

from __future__ import annotations

import argparse
from pathlib import Path

from graphcorrect_cli.parser import Parser, at_least

DESCRIPTION = """\
See it work, in under two minutes on two cores and without a download: a small network is trained on a few labeled
scenes of handwritten digits (scikit-learn's), its masks of other scenes are corrected by what those few say, and a
picture shows them before, after, and in truth."""


def add_to(parser: Parser) -> None:
    """Adds the options."""
    parser.description = DESCRIPTION
    add = parser.add_argument_group("options").add_argument
    add("--out", type=Path, default=Path("graphcorrect-demo"), metavar="FOLDER", help="where the picture goes")
    add("--labeled", type=at_least(2), default=60, metavar="N", help="labeled scenes")
    add("--steps", type=at_least(1), default=300, metavar="N", help="steps of training")
    add("--scenes", type=at_least(1), default=24, metavar="N", help="scenes to correct")
    add("--seed", type=at_least(0), default=0, metavar="N", help="of everything that is drawn")
    add("--device", default="auto", help="auto (cuda if there is one), cpu, cuda, cuda:1, ...")


def check(parser: Parser, args: argparse.Namespace) -> None:
    """Refuses a file where the folder goes."""
    if args.out.exists() and not args.out.is_dir():
        parser.error(f"expected --out to be a folder, got {str(args.out)!r}")
