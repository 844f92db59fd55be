"""A run of the trainer as it is before its first step, and on from where it stopped."""

import pytest
import torch
import trainer_data  # noqa: F401 (it puts the trainer on the path)

command = pytest.importorskip("segmentation.command")


def start(recipe, out):
    """A run's folder as it is before its first step, which `--resume` begins with."""
    out.mkdir()
    command.write_recipe(recipe, out)


def go_on(out):
    """What `train_voc.py --resume --out OUT` does, in a process of its own."""
    torch.set_num_threads(1)
    train_voc = __import__("train_voc")
    command.main(train_voc.parse(["--resume", "--out", str(out)]))
