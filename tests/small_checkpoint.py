"""A checkpoint of a method as a run leaves it, of the smallest network, without a step of training."""

import pytest
import torch
from trainer_data import recipes, tiny, write_voc

checkpoint = pytest.importorskip("segmentation.checkpoint")
models = pytest.importorskip("segmentation.model")
networks = pytest.importorskip("segmentation.networks")
state = pytest.importorskip("segmentation.state")
layouts = pytest.importorskip("segmentation.layouts")
timm = pytest.importorskip("timm")

SMALLEST = "tu-test_efficientnet" if timm.is_model("test_efficientnet") else "tu-tf_efficientnet_lite0"


def write_run(folder, data=None, method="mllc", **changed):
    """`folder/method/best.pt` of a network that has learned nothing, for VOC's classes; returns its path."""
    data = data or write_voc(folder / "voc", train=4, val=3, size=(32, 40))
    recipe = tiny(network__backbone=SMALLEST, data__layout="voc", data__folder=str(data), data__labeled="2")
    torch.manual_seed(0)
    names = list(layouts.VOC_CLASSES)
    network = networks.SegmentationNetwork(len(names), recipe.network)
    model = models.SegmentationModel(network, state.new_refiner(recipe, len(names)))
    content = {
        "recipe": recipes.as_dict(recipe),
        "method": method,
        "class_names": names,
        "layout": "voc",
        "crop": [32, 32],
        "step": 4,
        "model": model.state_dict(),
        "teacher": model.state_dict(),
    }
    checkpoint.save(content | changed, folder / method / "best.pt")
    return folder / method / "best.pt"
