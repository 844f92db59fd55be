"""Options of `graphcorrect refine`."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from graphcorrect_cli.parser import Parser, at_least, check_folders, check_weights, share

DESCRIPTION = """\
Correct the masks of a network, without any training.

  graphcorrect refine --predictions probabilities --images photos --out corrected
  graphcorrect refine --predictions masks --features features --classes names.txt --out corrected
  graphcorrect refine --model network.pt --images photos --out corrected \\
      --labeled-images labeled/photos --labeled-masks labeled/masks --encoder timm:tf_efficientnet_lite0

Predictions are class probabilities of shape (C, H, W), .npy, .npz or .safetensors, or masks, .png of ids (255 means
none) or of the colors that --classes lists; or what a model says of images. Labeled images bring evidence: pixels are
looked up among theirs, by an encoder or by feature maps. Files belong together by name.

The folder of results gets masks/, changes.csv (one line an image), flows.csv (from which class to which), report.html
and, with --truth, scores.csv. Every file is read before any work, and every fault is listed. A run that was stopped
goes on when the same command is given again; several processes share the work (torchrun, or --shard)."""

OF_BANK = ("anchor_capacity", "balance")
OF_CORRECTION = (*OF_BANK, "preset", "position_weight", "rounds", "neighbors", "alpha", "sigma", "max_nodes", "guided")


def add_to(parser: Parser) -> None:
    """Adds the options."""
    parser.usage, parser.description = "%(prog)s --out FOLDER [options]", DESCRIPTION
    add = parser.add_argument_group("what is corrected").add_argument
    add("--predictions", type=Path, metavar="FOLDER", help="probabilities or masks")
    add(
        "--model",
        metavar="MODEL",
        help="in their place: a TorchScript file, a torch.export file (.pt2), or package.module:callable; it turns "
        "images (1, 3, H, W) into logits or probabilities (1, C, h, w)",
    )
    add("--images", type=Path, metavar="FOLDER", help="images; for the model, the edges, pixel features, the report")
    add("--features", type=Path, metavar="FOLDER", help="feature maps (D, h, w), .npy or .npz, of any resolution")
    add("--classes", metavar="C|FILE", help="number of classes, or a file with a name a line, and a color where masks "
        "hold colors (CVAT's labelmap.txt, a CSV, a YAML); needed for masks")  # fmt: skip
    add("--channels", choices=["first", "last"], help="where arrays have classes or channels; default: first, checked")

    add = parser.add_argument_group("labeled images, whose pixels are looked up").add_argument
    add("--labeled-masks", type=Path, metavar="FOLDER", help="their true masks")
    add("--labeled-images", type=Path, metavar="FOLDER", help="the images; default: --images")
    add("--labeled-features", type=Path, metavar="FOLDER", help="their feature maps; default: --features")
    add("--encoder", metavar="NAME", help="what pixels are looked up by: timm:NAME, or package.module:callable")
    add("--encoder-weights", type=Path, metavar="FILE", help="of a timm encoder; default: those of the hub")
    add("--corrector", metavar="FOLDER", help="in place of them all: a saved SegmentationCorrector, or one of the hub")
    add("--preset", choices=["quality", "fast"], default="fast", help="of the look-up by an encoder")
    add("--anchor-capacity", type=at_least(1), metavar="N", help="most labeled pixels of a class; default: 10000, or "
        "3000 by feature maps")  # fmt: skip
    add("--balance", type=share, metavar="B", help="1: classes are alike beforehand; 0: as frequent as in the labeled "
        "images; default: between them, as even as these classes are")  # fmt: skip

    add = parser.add_argument_group("the model").add_argument
    add("--mean", type=float, nargs=3, metavar="M", help="subtracted from images in [0, 1]; ImageNet's: 0.485 0.456 "
        "0.406; default: none")  # fmt: skip
    add("--std", type=float, nargs=3, metavar="S", help="divides them; ImageNet's: 0.229 0.224 0.225; default: none")
    add("--multiple", type=at_least(1), default=1, metavar="N", help="images are padded to sides of a multiple of it")

    add = parser.add_argument_group("results").add_argument
    add("--out", type=Path, required=True, metavar="FOLDER", help="where they go; a folder of its own")
    add("--truth", type=Path, metavar="FOLDER", help="true masks: counts labels fixed and broken, and mIoU")
    add("--report-images", type=at_least(0), default=60, metavar="N", help="images in the report, the most changed")

    add = parser.add_argument_group("the correction").add_argument
    add("--rounds", type=at_least(1), default=2, metavar="N", help="rounds of both graphs")
    add("--neighbors", type=at_least(1), default=20, metavar="N", help="neighbors of a pixel")
    add("--alpha", type=share, default=0.2, metavar="A", help="share of the correction that confident pixels take")
    add("--sigma", type=share, default=0.95, metavar="S", help="base confidence of the class thresholds")
    add(
        "--max-nodes", type=at_least(1), default=4096, metavar="N", help="most nodes of a graph; larger maps are pooled"
    )
    add("--mask-confidence", type=share, metavar="P", help="probability that a mask's class gets, above 1/C; "
        "default: 0.9")  # fmt: skip
    add("--position-weight", type=at_least(0, float), metavar="W", help="weight of row and column: 1 among pixel "
        "features, 0 among an encoder's keys, where 1 is for images that lie alike, as scans of one organ")  # fmt: skip
    add("--no-guided", dest="guided", action="store_false", help="do not follow the edges of the images")

    add = parser.add_argument_group("the machine").add_argument
    add("--device", default="auto", help="auto (cuda if there is one), cpu, cuda, cuda:1, ...")
    add("--threads", type=at_least(1), metavar="N", help="of each process; default: torch's choice")
    add("--shard", metavar="I/N", help="do the I-th of N shares; the command without it, given last, adds the report")


def check(parser: Parser, args: argparse.Namespace) -> None:
    """Refuses what does not go together; nothing is read yet.

    Sets `args.share`, the (number, count) of what this process does, of all shards and ranks.
    """
    if (args.predictions is None) == (args.model is None):
        parser.error(f"expected --predictions or --model, got {'neither' if args.model is None else 'both'}")
    if args.model is not None and args.images is None:
        parser.error("expected --images beside --model, got none")
    if args.model is not None and args.features is not None:
        parser.error("expected no --features beside --model; give --encoder")
    by_encoder = args.encoder is not None or args.corrector is not None
    if args.model is not None and not by_encoder:
        parser.error("expected --encoder and --labeled-masks, or --corrector, beside --model, got neither")
    if args.features is None and args.images is None:
        parser.error("expected --features or --images, got neither")
    if by_encoder and args.images is None:
        parser.error("expected --images beside --encoder or --corrector, got none")
    if args.encoder is not None and args.corrector is not None:
        parser.error("expected --encoder or --corrector, got both")
    if args.encoder is not None and args.labeled_masks is None:
        parser.error("expected --labeled-masks beside --encoder, got none")
    check_weights(parser, args)
    if args.corrector is not None and args.labeled_masks is not None:
        parser.error("expected no --labeled-masks beside --corrector, which holds its labeled pixels")
    if args.labeled_masks is None and (args.labeled_images or args.labeled_features):
        parser.error("expected --labeled-masks beside --labeled-images or --labeled-features, got none")
    if args.features is None and args.labeled_features is not None:
        parser.error("expected --features beside --labeled-features, got none")
    if (args.mean is None) != (args.std is None):
        parser.error("expected --mean and --std, got one of them")
    for name, values in (("--mean", args.mean), ("--std", args.std)):
        if values is not None and not all(-1 <= value <= 1 for value in values):
            given = " ".join(f"{value:g}" for value in values)
            parser.error(f"expected {name} of images in [0, 1], got {given}; divide by 255")
    if args.std is not None and min(args.std) <= 0:
        parser.error(f"expected --std above 0, got {min(args.std):g}")
    if args.labeled_masks is not None and args.features is not None and not by_encoder:
        args.labeled_images, args.labeled_features = None, args.labeled_features or args.features
    elif args.labeled_masks is not None:
        args.labeled_images = args.labeled_images or args.images
    for names, is_without_effect, why in (
        (OF_CORRECTION, args.corrector is not None, "beside --corrector, which has its own"),
        (OF_BANK, args.labeled_masks is None, "without --labeled-masks"),
        (("preset",), args.encoder is None, "without --encoder"),
        (("multiple", "mean"), args.model is None, "without --model"),
        (("mask_confidence", "channels"), args.model is not None, "beside --model"),
        (("position_weight",), args.features is not None and args.encoder is None, "beside --features"),
    ):
        for name in names:
            if is_without_effect and getattr(args, name) != parser.get_default(name):
                option = "--no-guided" if name == "guided" else f"--{name.replace('_', '-')}"
                parser.error(f"expected no {option} {why}")
    check_folders(parser, args, "predictions", "images", "features")
    check_folders(parser, args, "labeled_masks", "labeled_images", "labeled_features", "truth")
    if args.max_nodes <= args.neighbors:
        parser.error(f"expected --max-nodes above --neighbors, {args.neighbors}, got {args.max_nodes}")
    if args.mask_confidence == 0:
        parser.error("expected --mask-confidence in (0, 1], got 0")
    if args.rounds > 1000:
        parser.error(f"expected --rounds to be at most 1000, got {args.rounds}")
    args.share = _share(parser, args.shard)


def _share(parser: Parser, shard: str | None) -> tuple[int, int]:
    number, count = 0, 1
    if shard is not None:
        found = re.fullmatch(r"(\d+)/(\d+)", shard)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            parser.error(f"expected --shard as I/N with I from 1 to N, such as 1/4, got {shard!r}")
        number, count = int(found[1]) - 1, int(found[2])
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    return number * ranks + rank, count * ranks
