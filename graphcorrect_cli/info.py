"""Options of `graphcorrect info`."""

from __future__ import annotations

import argparse

from graphcorrect_cli.parser import Parser


def add_to(parser: Parser) -> None:
    """Adds the options."""
    parser.description = "Versions, devices, and what serves each operation on this machine, and why nothing else does."


def check(parser: Parser, args: argparse.Namespace) -> None:
    """There is nothing to refuse."""
