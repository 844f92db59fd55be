"""Options in groups with their defaults, and mistakes in one line that says what was meant."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn


class Help(argparse.RawDescriptionHelpFormatter):
    """The text as it is written, the options with their defaults."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=100)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        is_plain = action.default in (None, False, argparse.SUPPRESS) or not action.option_strings
        return text if is_plain or "default" in text else f"{text} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line; `commands` are those of its subparsers."""

    def __init__(self, **given: Any) -> None:
        settings: dict[str, Any] = {"formatter_class": Help, "allow_abbrev": False, **given}
        super().__init__(**settings)
        self.commands: dict[str, Parser] = {}

    def error(self, message: str) -> NoReturn:
        """Exits with 2 and one line on standard error."""
        wrong = re.search(r"invalid choice: '?([^' ]+)'? \(choose from (.*)\)", message)
        if wrong:
            near = difflib.get_close_matches(wrong[1], re.findall(r"[\w-]+", wrong[2]), n=1)
            message += f"; did you mean {near[0]}?" if near else ""
        self.exit(2, f"{self.prog}: error: {message}; `{self.prog} --help` lists all options\n")

    def parse_all(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """The options, or an error that names the first that is not known and the nearest that is."""
        args, unknown = self.parse_known_args(arguments)
        if unknown:
            parser = self.commands.get(getattr(args, "command", None) or "", self)
            name = unknown[0].partition("=")[0]
            near = difflib.get_close_matches(name, parser._option_string_actions, n=1, cutoff=0.5)
            parser.error(f"no such option: {name}" + (f"; did you mean {near[0]}?" if near else ""))
        return args


def check_folders(parser: Parser, args: argparse.Namespace, *names: str) -> None:
    """Refuses what should be a folder and is none."""
    for name in names:
        folder = getattr(args, name)
        if folder is not None and not folder.is_dir():
            parser.error(f"expected --{name.replace('_', '-')} to be a folder, got {str(folder)!r}")


def check_weights(parser: Parser, args: argparse.Namespace) -> None:
    """Refuses --encoder-weights without an encoder of timm."""
    if args.encoder_weights is not None and args.encoder is None:
        parser.error("expected --encoder beside --encoder-weights, got none")
    if args.encoder_weights is not None and ":" in args.encoder and not args.encoder.startswith("timm:"):
        parser.error(f"expected --encoder timm:NAME beside --encoder-weights, got {args.encoder}")


MOST = 2**31


def at_least(least: float, kind: Callable[[str], Any] = int, most: float = MOST) -> Callable[[str], Any]:
    """A type of option: a number from `least` to `most`, which is no more than a count can be."""

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            what = "a whole number" if kind is int else "a number"
            above = "" if value is None or value <= most else f" and at most {most}"
            bounds = f"in [{least:g}, {most:g}]" if most < MOST else f"of at least {least:g}{above}"
            raise argparse.ArgumentTypeError(f"expected {what} {bounds}, got {text!r}")
        return value

    return read


share = at_least(0, float, 1)
