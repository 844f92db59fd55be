"""Train on Cityscapes (fine) from few labels, as the paper does.

    python examples/train_cityscapes.py --data cityscapes --labeled 1/8 --dry-run
    torchrun --nproc-per-node 2 examples/train_cityscapes.py --data cityscapes --labeled splits/1_8/labeled.txt
    python examples/train_cityscapes.py --recipe cityscapes_v2 --data cityscapes --labeled 1/8 --method mllc
    python examples/train_cityscapes.py --recipe cityscapes_segformer --data cityscapes --labeled 1/8

The folder is the download's: `leftImg8bit/{train,val}/CITY/*_leftImg8bit.png`, `gtFine/.../*_gtFine_labelIds.png`. All
else is as in `train_voc.py`; `reproduce.py` runs whole tables.
"""

from __future__ import annotations

from segmentation.command import main, parse

if __name__ == "__main__":
    main(parse(None, doc=__doc__, out="runs/train_cityscapes", recipe="cityscapes_v3plus"))
