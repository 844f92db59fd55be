"""Train a segmentation network from few labels, four ways, and see what each is worth.

    python examples/train_voc.py                                    # embedded digit scenes, all methods, CPU, minutes
    python examples/train_voc.py --method mllc --data VOC2012 --labeled splits/pascal/u2pl/183/labeled.txt --device cuda
    python examples/train_voc.py --data camvid:CamVid --labeled 46 --steps 2000 --device cuda
    torchrun --nproc-per-node 4 examples/train_voc.py --data VOC2012 --labeled 183 --device cuda

All methods start from one supervised warm-up, see the same images for the same number of steps, and are judged by the
same code; `supervised` simply goes on. The run's folder gets `results.json`, `log.jsonl`, checkpoints, the labeled
split that was drawn, and pictures of pseudo-labels before and after correction.

Where the library comes in: `segmentation/methods.py`, about a page.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from segmentation.engine import Config, run
from segmentation.methods import METHODS
from segmentation.networks import LITE0

# What suits 300 small scenes on two CPU cores, and what suits a data set on a GPU.
EMBEDDED = {
    "steps": 200, "warmup": 300, "batch_size": 4, "crop": (96, 96), "scale": (0.75, 1.5), "feature_dim": 64,
    "decoder_channels": 128, "encoder_depth": 4, "atrous_rates": (1, 2, 3), "blur": 1.0, "max_nodes": 576,
    "optimizer": "adamw", "learning_rate": 1e-3, "head_factor": 3.0, "ema": 0.97, "anchor_capacity": 500,
    "judged": 150, "labeled": "60", "scenes": (600, 100),
}  # fmt: skip
FOLDER = {
    "steps": 40_000, "warmup": 2_000, "batch_size": 8, "crop": None, "scale": (0.5, 2.0), "feature_dim": 256,
    "decoder_channels": 256, "encoder_depth": 5, "atrous_rates": (12, 24, 36), "blur": 2.0, "max_nodes": 4096,
    "optimizer": "sgd", "learning_rate": 0.01, "head_factor": 10.0, "ema": 0.99, "anchor_capacity": 3000,
    "judged": 500,
}  # fmt: skip
SMOKE = {"steps": 3, "warmup": 3, "batch_size": 2, "judged": 8, "evaluations": 1, "log_every": 1}
SMOKE_EMBEDDED = {"scenes": (40, 10), "labeled": "8"}


def parse(arguments: list[str] | None = None) -> Config:
    """The configuration that a command line stands for; exits with a message that names the argument at fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--method", nargs="+", default=["compare"], choices=[*METHODS, "compare"], help="compare: all four")
    add("--data", help="folder in VOC's or CamVid's layout, camvid:FOLDER; default: embedded scenes of digits")
    add("--labeled", help="split list, or how many labeled images to draw; default: a tenth")
    add("--held-out", type=int, default=0, help="training images that no method sees, scored beside the test images")
    add("--classes", help="file with a class name a line; default: the folder's classes.txt, else VOC's 21")
    add("--out", type=Path, default=Path("runs/train_voc"), help="the run's folder")
    add("--seed", type=int, default=0)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--workers", type=int, default=0, help="processes that load images; 0: this one")
    add("--smoke", action="store_true", help="a few steps of everything, to see that it runs")

    add("--warmup", type=int, help="supervised steps that all methods share")
    add("--start", type=Path, help="warmup.pt of an earlier run with these settings, instead of the warm-up")
    add("--steps", type=int, help="steps of each method after the warm-up")
    add("--batch-size", type=int, help="labeled images a step; as many unlabeled ones")
    add("--crop", type=int, nargs=2, metavar=("H", "W"), help="default: as the images, at most 512")
    add("--scale", type=float, nargs=2, metavar=("MIN", "MAX"), help="range of the random scale")
    add("--no-flip", action="store_true", help="do not mirror images (the embedded digits never are)")
    add("--blur", type=float, help="largest sigma of the strong view's blur, in pixels")

    add("--backbone", default=LITE0, help="encoder of segmentation-models-pytorch; tu-NAME: of timm")
    add("--weights", default="auto", help="auto, none, or a file with the encoder's state dict")
    add("--feature-dim", type=int, help="entries of the embedding the graphs are built on")
    add("--decoder-channels", type=int)
    add("--encoder-depth", type=int, choices=[4, 5], help="4 leaves out the encoder's last stage")
    add("--atrous-rates", type=int, nargs=3, help="dilations of the decoder, in cells of 16 pixels")
    add("--learning-rate", type=float, help="of the encoder")
    add("--head-factor", type=float, help="how many times that the rest learns")
    add("--weight-decay", type=float, default=1e-4)
    add("--optimizer", choices=["sgd", "adamw"])
    add("--ema", type=float, help="share of its old weights the teacher keeps at a step")

    add("--confidence", type=float, default=0.95, help="what fixmatch asks of a pixel")
    add("--rounds", type=int, default=2, help="rounds of correction, K")
    add("--neighbors", type=int, default=20, help="neighbors of a pixel in the semantic-level graph, k")
    add("--max-nodes", type=int, help="most nodes of a graph; larger maps are pooled")
    add("--slg-weight", type=float, default=0.1, help="weight of the contrastive loss in mllc")
    add("--anchors", action=argparse.BooleanOptionalAction, default=True, help="mllc looks up labeled pixels too")
    add("--anchor-capacity", type=int, help="most labeled pixels of a class to remember")
    add("--evaluations", type=int, default=2, help="how often a method is tested on its way, the end included")
    add("--judged", type=int, help="unlabeled images on which pseudo-labels are judged")
    add("--log-every", type=int, default=10)
    # Twice: what suits depends on the data and on --smoke, and whatever is typed goes before it.
    first, _ = parser.parse_known_args(arguments)
    suits = EMBEDDED if first.data is None else FOLDER
    if first.smoke:
        suits = suits | SMOKE | (SMOKE_EMBEDDED if first.data is None else {})
    parser.set_defaults(**suits)
    given = vars(parser.parse_args(arguments))

    given.pop("smoke")
    given["flip"] = not given.pop("no_flip")
    methods = given.pop("method")
    given["methods"] = METHODS if "compare" in methods else tuple(dict.fromkeys(methods))
    config = Config(**given)

    at_least = {"steps": 1, "warmup": 1, "batch_size": 2, "workers": 0, "feature_dim": 1, "decoder_channels": 1}
    at_least |= {"rounds": 1, "neighbors": 1, "max_nodes": 1, "evaluations": 1, "judged": 1, "log_every": 1}
    at_least |= {"anchor_capacity": 1}
    for key, least in at_least.items():
        if getattr(config, key) < least:
            parser.error(f"expected --{key.replace('_', '-')} to be at least {least}, got {getattr(config, key)}")
    for key in ("learning_rate", "head_factor"):
        if not getattr(config, key) > 0:
            parser.error(f"expected --{key.replace('_', '-')} above 0, got {getattr(config, key)}")
    for key in ("ema", "confidence"):
        if not 0 <= getattr(config, key) <= 1:
            parser.error(f"expected --{key} in [0, 1], got {getattr(config, key)}")
    if not 0 < config.scale[0] <= config.scale[1]:
        parser.error(f"expected --scale as two numbers 0 < MIN <= MAX, got {config.scale[0]} {config.scale[1]}")
    return config


if __name__ == "__main__":
    try:
        run(parse())
    except ValueError as error:  # what the user can mend: say it without the path it took through the code
        sys.exit(f"error: {error}")
