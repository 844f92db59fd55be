"""Options of `graphcorrect bench`."""

from __future__ import annotations

import argparse

from graphcorrect_cli.parser import Parser, at_least

DESCRIPTION = """\
Time the neighbor search at your sizes: what serves it here and why nothing else does, its time beside a matrix product
with topk and beside faiss, and whether they agree.

  graphcorrect bench --nodes 4096 --batch 4 --dim 256 --neighbors 20
  graphcorrect bench --nodes 2700 --keys 60000 --dim 456"""


def add_to(parser: Parser) -> None:
    """Adds the options."""
    parser.description = DESCRIPTION
    add = parser.add_argument_group("sizes").add_argument
    add("--nodes", type=at_least(1), default=4096, metavar="N", help="nodes of an image, each a query")
    add("--batch", type=at_least(1), default=1, metavar="B", help="images, each a search of its own")
    add("--dim", type=at_least(1), default=256, metavar="D", help="entries of a feature")
    add("--neighbors", type=at_least(1), default=20, metavar="K", help="neighbors of a node")
    add("--keys", type=at_least(1), metavar="M", help="keys to search among, such as anchors; default: the nodes")
    add = parser.add_argument_group("how").add_argument
    add("--device", default="auto", help="auto (cuda if there is one), cpu, cuda, cuda:1, ...")
    add("--dtype", choices=["float32", "float16", "bfloat16"], default="float32", help="of the features")
    add("--repeats", type=at_least(1), default=7, metavar="R", help="runs of each, in turn; the median counts")
    add("--threads", type=at_least(1), metavar="N", help="of a CPU; default: torch's choice")


def check(parser: Parser, args: argparse.Namespace) -> None:
    """Refuses more neighbors than there are keys."""
    keys = args.keys or args.nodes - 1
    if args.neighbors > keys:
        parser.error(f"expected --neighbors of at most {keys}, the keys of a node, got {args.neighbors}")
