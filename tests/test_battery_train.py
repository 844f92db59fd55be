"""The trainer: each file that a command line leads to, broken in each way: its name, or a run with it; no trace."""

import pytest
import yaml
from broken_files import FORMS, answer, check, spoiled
from small_checkpoint import SMALLEST
from trainer_data import TINY, tiny, write_voc

command = pytest.importorskip("segmentation.command")
recipes = pytest.importorskip("segmentation.recipe")
networks = pytest.importorskip("segmentation.networks")
train_voc = pytest.importorskip("train_voc")
torch = pytest.importorskip("torch")

SMALL = TINY | {"network.backbone": SMALLEST, "schedule.warmup": 1, "schedule.steps": 1, "running.workers": 0}
SET = [f"{key}={list(value) if isinstance(value, tuple) else value}" for key, value in SMALL.items()]
INPUTS = ("image", "mask", "list", "classes", "recipe", "weights")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set with everything that a command line may name."""
    folder = tmp_path_factory.mktemp("train")
    data = write_voc(folder / "voc", train=4, val=2, size=(32, 40))
    (folder / "labeled.txt").write_text("2007_000000\n2007_000001\n")
    (folder / "names.txt").write_text("\n".join(f"class {number}" for number in range(21)))
    recipe = tiny(network__backbone=SMALLEST, methods=("supervised",))
    (folder / "mine.yaml").write_text(yaml.safe_dump(recipes.as_dict(recipe)))
    torch.save(networks.SegmentationNetwork(3, recipe.network).encoder.state_dict(), folder / "weights.pth")
    return folder, {
        "image": data / "JPEGImages/2007_000001.jpg",
        "mask": data / "SegmentationClass/2007_000001.png",
        "list": folder / "labeled.txt",
        "classes": folder / "names.txt",
        "recipe": folder / "mine.yaml",
        "weights": folder / "weights.pth",
    }


def train(arguments):
    command.main(train_voc.parse(arguments))


@pytest.mark.slow
@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("form", FORMS)
def test_a_broken_file_of_a_training_is_named_or_used(folder, name, form, capsys, tmp_path):
    root, files = folder
    more = ["--recipe", files["recipe"]] if name == "recipe" else ["--recipe", "digits"]
    more += ["--weights", files["weights"]] if name == "weights" else []
    arguments = ["--data", root / "voc", "--labeled", files["list"], "--classes", files["classes"], "--out", tmp_path]
    settings = [each for each in SET if name != "weights" or not each.startswith("network.weights")]
    with spoiled(files[name], form):
        code, text = answer(
            train, [*arguments, *more, "--method", "supervised", "--set", "data.layout=voc", *settings], capsys
        )
    if name == "list" and form in ("cut", "text", "flipped") and code:
        return  # its lines are named, as images that are not there
    check(form, files[name], code, text, (tmp_path / "results.json").is_file())
