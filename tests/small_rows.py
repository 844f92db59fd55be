"""What cuts a row of the paper down to seconds, as `reproduce.py --set` takes it."""

from trainer_data import TINY

SMALL = TINY | {
    "network.backbone": "tu-resnet18", "data.resize": (32, 64), "running.workers": 0, "running.precision": "fp32",
    "running.tensorboard": False,
}  # fmt: skip
SET = [f"{key}={list(value) if isinstance(value, tuple) else value}" for key, value in SMALL.items()]
