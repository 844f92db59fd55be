"""Options of `graphcorrect issues`."""

from __future__ import annotations

import argparse

from graphcorrect_cli.parser import Parser


def add_to(parser: Parser) -> None:
    """Adds the options."""


def check(parser: Parser, args: argparse.Namespace) -> None:
    """Refuses what does not go together."""
