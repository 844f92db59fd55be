"""Correct a folder of saved predictions, without any training: `graphcorrect refine`, from a clone.

    python examples/refine_masks.py --predictions probabilities --images photos --out corrected

All options: `python examples/refine_masks.py --help`, and docs/refine_masks.md.
"""

from __future__ import annotations

import sys

from graphcorrect_cli.main import main


def run(arguments: list[str] | None = None) -> None:
    """The command line."""
    main(["refine", *(sys.argv[1:] if arguments is None else arguments)])


if __name__ == "__main__":
    run()
