"""Options of `graphcorrect issues`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from graphcorrect_cli.parser import Parser, at_least, check_folders, check_weights

DESCRIPTION = """\
Find annotations that look wrong, and what they should be.

  graphcorrect issues --masks annotations --probabilities predicted --images photos \\
      --encoder timm:tf_efficientnet_lite0 --out issues

The probabilities, .npy or .npz of shape (C, H, W) or smaller, are those of a model that was not trained on these
masks: predict each half of the images by a model trained on the other half. Files belong together by name.

The folder of results gets images.csv (the worst image first), issues/ (white where a label looks wrong), masks/ (in
which the surest of them are replaced, see --caution; in palette colors) and report.html, which shows these."""


def add_to(parser: Parser) -> None:
    """Adds the options."""
    parser.usage = "%(prog)s --masks FOLDER --probabilities FOLDER --out FOLDER [options]"
    parser.description = DESCRIPTION
    add = parser.add_argument_group("what is judged").add_argument
    add("--masks", type=Path, required=True, metavar="FOLDER", help="annotations, masks of class ids, 255 for none")
    add("--probabilities", type=Path, required=True, metavar="FOLDER", help="what a model says of the same images")
    add("--images", type=Path, metavar="FOLDER", help="the images: issues then end at their edges; for the report")
    add("--encoder", metavar="NAME", help="pixels are compared across images, by timm:NAME, or package.module:callable")
    add("--encoder-weights", type=Path, metavar="FILE", help="of a timm encoder; default: those of the hub")
    add("--features", type=Path, metavar="FOLDER", help="in its place: feature maps (D, h, w)")
    add("--classes", metavar="C|FILE", help="number of classes, or a file with a name a line, and a color where masks "
        "hold colors (CVAT's labelmap.txt, a CSV, a YAML)")  # fmt: skip
    add("--channels", choices=["first", "last"], help="where arrays have classes or channels; default: first, checked")
    add = parser.add_argument_group("how").add_argument
    add(
        "--caution",
        type=float,
        default=4.0,
        metavar="X",
        help="how many times likelier than the given label another must be to replace it; 1 replaces every issue",
    )
    add("--error-rate", type=float, default=0.1, metavar="R", help="share of labels expected to be wrong, in (0, 1)")
    add("--device", default="auto", help="auto (cuda if there is one), cpu, cuda, cuda:1, ...")
    add = parser.add_argument_group("results").add_argument
    add("--out", type=Path, required=True, metavar="FOLDER", help="where they go; a folder of its own")
    add("--report-images", type=at_least(0), default=60, metavar="N", help="images in the report, the worst")


def check(parser: Parser, args: argparse.Namespace) -> None:
    """Refuses what does not go together."""
    check_folders(parser, args, "masks", "probabilities", "images", "features")
    if args.encoder is not None and args.features is not None:
        parser.error("expected --encoder or --features, got both")
    if args.encoder is not None and args.images is None:
        parser.error("expected --images beside --encoder, got none")
    check_weights(parser, args)
    if not 0 < args.error_rate < 1:
        parser.error(f"expected --error-rate in (0, 1), got {args.error_rate:g}")
    if not 1 <= args.caution < math.inf:
        parser.error(f"expected --caution of at least 1, got {args.caution:g}")
