"""mIoU as the field computes it; windows, scales and flips; and what `evaluate.py` leaves of a checkpoint."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from trainer_data import tiny, write_cityscapes

engine = pytest.importorskip("segmentation.engine")
evaluate = pytest.importorskip("evaluate")
evaluation = pytest.importorskip("segmentation.evaluation")
cityscapes = pytest.importorskip("segmentation.cityscapes")
metrics = pytest.importorskip("graphcorrect").metrics
networks = pytest.importorskip("segmentation.networks")
recipes = pytest.importorskip("segmentation.recipe")
trained = pytest.importorskip("segmentation.trained")
models = pytest.importorskip("graphcorrect.cli.models")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on Cityscapes in small, resized to half, two methods."""
    folder = tmp_path_factory.mktemp("city")
    recipe = tiny(
        "cityscapes_v3plus", network__backbone="resnet18", data__labeled="4", data__resize=(24, 48),
        data__folder=str(write_cityscapes(folder / "data", val=4)), methods=("supervised", "mllc"),
        running__precision="fp32", running__workers=0, running__tensorboard=False, views__crop=(16, 32),
    )  # fmt: skip
    engine.run(recipe, folder / "run")
    return folder, recipe


def test_miou_is_torchmetrics_and_cityscapesscripts():
    torchmetrics = pytest.importorskip("torchmetrics")
    labels = torch.randint(0, 19, (3, 40, 50))
    predictions = torch.where(torch.rand(labels.shape) < 0.6, labels, torch.randint(0, 19, labels.shape))
    labels[torch.rand(labels.shape) < 0.1] = 255
    ours = metrics.per_class_iou(metrics.confusion_matrix(predictions, labels, 19))

    jaccard = torchmetrics.JaccardIndex(task="multiclass", num_classes=19, ignore_index=255, average=None)
    torch.testing.assert_close(ours.float(), jaccard(predictions, labels))

    # As cityscapesScripts does it: on label ids; the ground truth's ignored pixels are left out of false positives
    truth, found = cityscapes.to_label_ids(labels).numpy(), cityscapes.to_label_ids(predictions).numpy()
    trained = [entry.label_id for entry in cityscapes.CLASSES]
    for train_id, label_id in enumerate(trained):
        tp = np.sum((truth == label_id) & (found == label_id))
        fn = np.sum((truth == label_id) & (found != label_id))
        fp = np.sum(np.isin(truth, trained) & (truth != label_id) & (found == label_id))
        assert float(ours[train_id]) == pytest.approx(tp / (tp + fp + fn))


class Colors(torch.nn.Module):
    """A network that says of each pixel what its color is: shifted with the image, mirrored with it."""

    def forward(self, images):
        return networks.NetworkOutput(20 * images, images, images), None


def settings(**given):
    return recipes.Evaluation(**given)


def test_windows_and_flips_agree_with_the_whole_image():
    images = torch.rand(2, 3, 8, 12).repeat_interleave(8, 2).repeat_interleave(8, 3)  # (2, 3, 64, 96)
    whole = evaluation.predict(Colors(), images, settings(), (32, 32))
    flipped = evaluation.predict(Colors(), images, settings(flip=True), (32, 32))
    torch.testing.assert_close(flipped, whole)
    seen = []

    class Watched(Colors):
        def forward(self, images):
            seen.append(tuple(images.shape[-2:]))
            return super().forward(images)

    windows = evaluation.predict(Watched(), images, settings(mode="sliding", window=(32, 40)), (16, 16))
    assert len(seen) == 3 * 4
    assert set(seen) == {(32, 40)}
    torch.testing.assert_close(windows, whole)
    large = evaluation.predict(Colors(), images, settings(mode="sliding", window=(200, 200)), (16, 16))
    torch.testing.assert_close(large, whole)  # a window larger than the image is the image


def test_images_are_seen_in_the_precision_of_the_run(tmp_path):
    levels = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    Image.fromarray(levels).save(tmp_path / "image.png")
    Image.fromarray(levels[..., 0]).save(tmp_path / "mask.png")
    sample, device = evaluation.Sample(tmp_path / "image.png", tmp_path / "mask.png"), torch.device("cpu")
    expected = torch.from_numpy(levels).permute(2, 0, 1)[None].double() / 255
    for precision, dtype in (("fp64", torch.float64), ("bf16", torch.float32)):
        recipe = tiny(running__precision=precision)
        found = evaluation.one_image(sample, recipe, device)[0], evaluation.read_one(sample.image, recipe, device)
        for image in (*found, *(image for image, _ in evaluation.batches([sample], recipe, device))):
            assert image.dtype == dtype
            torch.testing.assert_close(image, expected.to(dtype), rtol=0, atol=1e-7 if dtype == torch.float32 else 0)


def test_scales_are_averaged():
    images = torch.rand(1, 3, 4, 6).repeat_interleave(16, 2).repeat_interleave(16, 3)
    single = [evaluation.predict(Colors(), images, settings(scales=(scale,)), (32, 32)) for scale in (0.5, 1.0)]
    both = evaluation.predict(Colors(), images, settings(scales=(0.5, 1.0)), (32, 32))
    torch.testing.assert_close(both, (single[0] + single[1]) / 2)
    assert not torch.allclose(single[0], single[1])


@pytest.mark.slow
def test_a_checkpoint_is_scored_and_its_predictions_written(run, capsys):
    folder, recipe = run
    given = [str(folder / "run/mllc/last.pt"), "--beside", str(folder / "run/supervised/last.pt"), "--pictures", "2"]
    scores = evaluate.main(evaluate.parse(given))
    out = folder / "run/mllc/evaluation"
    results = json.loads((folder / "run/results.json").read_text())["methods"]["mllc"]
    assert scores["miou"] == pytest.approx(results["student_miou"])  # the code that trained says the same
    assert scores["images"] == 4
    with (out / "classes.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["class"] for row in table] == [entry.name for entry in cityscapes.CLASSES]
    assert sum(float(row["share"]) for row in table) == pytest.approx(1, abs=1e-4)
    labels, submitted = sorted((out / "labels").iterdir()), sorted((out / "submission").iterdir())
    assert len(labels) == len(submitted) == 4
    assert submitted[0].name == "lindau_000008_000019_pred_labelIds.png"
    confusion = 0
    for path, ids in zip(labels, submitted, strict=True):
        with Image.open(path) as mask, Image.open(ids) as sent:
            predicted = torch.from_numpy(np.array(mask))
            assert mask.getpalette()[:3] == [128, 64, 128]  # road
            assert torch.equal(torch.from_numpy(np.array(sent)), cityscapes.to_label_ids(predicted))
            assert sent.size == (96, 48)  # that of the image, not what the network saw
        name = path.stem.replace("_leftImg8bit", "_gtFine_labelIds")
        truth = torch.from_numpy(np.array(Image.open(next((folder / "data").glob(f"gtFine/val/*/{name}.png")))))
        confusion = confusion + metrics.confusion_matrix(predicted, cityscapes.to_train_ids(truth), 19)
    assert metrics.mean_iou(confusion) == pytest.approx(scores["miou"])
    assert "mIoU" in capsys.readouterr().out
    for name in ("grid.png", "features.png"):
        assert (out / name).stat().st_size > 1000


@pytest.mark.slow
def test_images_without_labels_are_predicted(run, tmp_path):
    folder, _ = run
    given = [str(folder / "run/mllc/best.pt"), "--network", "teacher", "--out", str(tmp_path), "--scales", "1", "0.5",
             "--images", str(folder / "data/leftImg8bit/val"), "--flip", "--mode", "whole"]  # fmt: skip
    scores = evaluate.main(evaluate.parse(given))
    assert "miou" not in scores
    assert (scores["images"], scores["flip"], scores["scales"]) == (4, True, [1.0, 0.5])
    assert len(list((tmp_path / "submission").iterdir())) == 4


def test_what_is_no_checkpoint_of_a_method_is_refused(tmp_path):
    torch.save({"model": {}}, tmp_path / "warmup.pt")
    with pytest.raises(ValueError, match=r"expected METHOD/last\.pt or METHOD/best\.pt"):
        evaluate.main(evaluate.parse([str(tmp_path / "warmup.pt")]))


def test_the_command_takes_the_network_of_a_checkpoint(run):
    checkpoint = run[0] / "run/mllc/last.pt"
    images = torch.rand(1, 3, 24, 48)
    model = trained.open_checkpoint(checkpoint, "teacher", torch.device("cpu")).model
    with torch.no_grad():
        expected = model(images)[0].logits
    assert torch.equal(models.Model(trained.Logits(str(checkpoint)).eval())(images), expected)


@pytest.mark.slow
def test_checkpoints_that_are_drawn_beside_are_looked_at_in_the_same_way(run, tmp_path, monkeypatch):
    asked, original = [], evaluation.predict

    def predict(model, images, settings, crop):
        asked.append((settings.mode, settings.scales, settings.flip))
        return original(model, images, settings, crop)

    monkeypatch.setattr(evaluation, "predict", predict)
    given = [str(run[0] / "run/mllc/last.pt"), "--beside", str(run[0] / "run/supervised/last.pt"), "--pictures", "1"]
    given += ["--out", str(tmp_path / "out"), "--mode", "whole", "--scales", "1", "2", "--flip", "--no-masks"]
    evaluate.main(evaluate.parse(given))
    assert set(asked) == {("whole", (1.0, 2.0), True)}


def test_a_batch_of_images_that_are_enlarged_holds_no_more_pixels(monkeypatch):
    item = torch.zeros(3, 64, 64, dtype=torch.uint8), torch.zeros(16, 16, dtype=torch.uint8)
    monkeypatch.setattr(evaluation, "WholeImages", lambda samples, _: [item for _ in samples])
    monkeypatch.setattr(evaluation, "PIXELS", 4 * 64 * 64)
    found = evaluation.batches([None] * 6, tiny(data__resize=(64, 64)), torch.device("cpu"))
    assert [len(images) for images, _ in found] == [4, 2]
