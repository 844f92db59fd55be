"""Train a segmentation network from few labels, in several ways, with and without corrected labels, and compare.

    python examples/train_voc.py                                    # embedded digit scenes, all methods, CPU, minutes
    python examples/train_voc.py --method fixmatch fixmatch+anchors+graphs --data VOC2012 --labeled 1/8
    python examples/train_voc.py --recipe acdc_3 --data acdc        # hearts, a U-Net from scratch, Dice
    python examples/train_voc.py --data camvid:CamVid --labeled 46 --steps 2000
    python examples/train_voc.py --recipe voc_v3plus --data VOC2012 --labeled 1/8 --dry-run
    torchrun --nproc-per-node 4 examples/train_voc.py --recipe voc_v3plus --data VOC2012 --labeled 1/8
    python examples/train_voc.py --resume --out runs/train_voc      # go on after a kill

All methods start from one supervised warm-up, see the same images for the same number of steps, and are judged by the
same code; `supervised` simply goes on. The run's folder gets `results.json`, `log.jsonl`, checkpoints, the recipe, the
labeled split that was drawn, and pictures of pseudo-labels before and after correction.

Where the library comes in: `segmentation/teaching.py` and `segmentation/model.py`.
"""

from __future__ import annotations

from segmentation.command import Command, main
from segmentation.command import parse as parse_command


def parse(arguments: list[str] | None = None) -> Command:
    """What a command line asks for; exits with a message that names the argument at fault."""
    return parse_command(arguments, doc=__doc__, out="runs/train_voc", recipe="digits", with_data="folder")


if __name__ == "__main__":
    main(parse())
