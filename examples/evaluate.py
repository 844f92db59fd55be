"""Score a checkpoint, class by class, and write what it predicts.

    python examples/evaluate.py runs/train_voc/mllc/best.pt
    python examples/evaluate.py runs/city/mllc/last.pt --data cityscapes --mode sliding --scales 0.75 1 1.25 --flip
    python examples/evaluate.py runs/city/mllc/last.pt --images cityscapes/leftImg8bit/test   # for the server
    python examples/evaluate.py runs/city/mllc/last.pt --beside runs/city/supervised/last.pt --pictures 8

Into `--out` (default: `evaluation` beside the checkpoint) go `scores.json`, `classes.csv`, `labels/` (palette masks of
class ids), for Cityscapes `submission/` (label ids under the names that the benchmark's server takes), `grid.png` (as
the paper's Figs. 7 and 8, of evenly spread images) and `features.png` (as its Fig. 5: t-SNE of the features before and
after the class-level graph).
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from segmentation import checkpoint, cityscapes, evaluation, figures, report
from segmentation.datasets import IMAGE_ENDINGS, Sample, read_image, read_labels, read_resized
from segmentation.layouts import open_data
from segmentation.methods import SegmentationModel, correct_labels
from segmentation.networks import SegmentationNetwork
from segmentation.recipe import Recipe, from_dict
from segmentation.state import new_refiner
from torch import Tensor
from tqdm import tqdm

from graphcorrect import metrics


class Trained(NamedTuple):
    """A network out of a checkpoint and what is needed to run it."""

    model: SegmentationModel
    recipe: Recipe
    class_names: list[str]
    layout: str
    crop: tuple[int, int]
    step: int


def open_checkpoint(path: Path, network: str, device: torch.device) -> Trained:
    """The teacher's or the student's network of `METHOD/last.pt` or `METHOD/best.pt`."""
    saved = checkpoint.load(path, device)
    if not {"recipe", "class_names", network} <= saved.keys():
        raise ValueError(f"expected METHOD/last.pt or METHOD/best.pt of a run, got {str(path)!r}, which is neither")
    recipe, names = from_dict(saved["recipe"], str(path)), saved["class_names"]
    settings = recipe.network
    settings.weights = "none"  # all of them come out of the checkpoint
    model = SegmentationModel(SegmentationNetwork(len(names), settings), new_refiner(recipe, len(names)))
    model.load_state_dict(saved[network])
    return Trained(model.to(device).eval(), recipe, names, saved["layout"], tuple(saved["crop"]), saved["step"])


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("checkpoint", type=Path, help="last.pt or best.pt in a method's folder of a run")
    add("--network", default="model", choices=["model", "teacher"], help="the student, or its running average")
    add("--data", help="the data set's folder; default: that of the training")
    add("--images", type=Path, help="predict all images below this folder instead; nothing is scored")
    add("--out", type=Path, help="default: `evaluation` beside the checkpoint")
    add("--beside", type=Path, nargs="+", default=[], help="other checkpoints, to draw their predictions too")
    add("--mode", choices=["whole", "sliding"], help="default: the recipe's")
    add("--window", type=int, nargs=2, metavar=("H", "W"), help="of the sliding mode; default: the training's crop")
    add("--scales", type=float, nargs="+", help="average over the image at these scales")
    add("--flip", action="store_true", help="and over its mirror image")
    add("--pictures", type=int, default=6, help="rows of grid.png; 0: none")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--no-masks", action="store_true", help="only scores and pictures")
    return parser.parse_args(arguments)


def main(given: argparse.Namespace) -> dict[str, Any]:
    """Do it, and return what is in `scores.json`."""
    device = torch.device(given.device)
    trained = open_checkpoint(given.checkpoint, given.network, device)
    settings = trained.recipe.evaluation
    settings.mode, settings.flip = given.mode or settings.mode, given.flip or settings.flip
    settings.scales = tuple(given.scales or settings.scales)
    settings.window = tuple(given.window) if given.window else settings.window
    out = given.out or given.checkpoint.parent / "evaluation"
    out.mkdir(parents=True, exist_ok=True)
    samples = find_samples(given, trained, out)

    num_classes = len(trained.class_names)
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for sample in tqdm(samples, "predicting"):
        labels = predict_labels(trained, sample, device)
        if not given.no_masks:
            write_masks(labels, sample, trained.layout, out)
        if sample.mask is not None:
            confusion += metrics.confusion_matrix(labels, read_labels(sample).long(), num_classes)
    scores: dict[str, Any] = {"checkpoint": str(given.checkpoint), "step": trained.step, "images": len(samples)}
    if confusion.sum() > 0:
        iou = metrics.per_class_iou(confusion)
        scores |= {"miou": float(iou.nanmean()), "accuracy": metrics.accuracy(confusion)}
        scores["classes"] = dict(zip(trained.class_names, iou.tolist(), strict=True))
        write_table(trained.class_names, confusion, out)
    scores |= {"mode": settings.mode, "scales": list(settings.scales), "flip": settings.flip}
    report.save_results(scores, out / "scores.json")
    scored = [sample for sample in samples if sample.mask is not None]
    if given.pictures and scored:
        others = [open_checkpoint(path, given.network, device) for path in given.beside]
        draw(trained, others, given, scored, out, device)
    return scores


def find_samples(given: argparse.Namespace, trained: Trained, out: Path) -> list[Sample]:
    """The test images of the data set, or all images below a folder."""
    if given.images is not None:
        found = sorted(path for path in given.images.rglob("*") if path.suffix.lower() in IMAGE_ENDINGS)
        if not found:
            raise ValueError(f"expected images below --images, found none in {str(given.images)!r}")
        return [Sample(path, None) for path in found]
    data = trained.recipe.data
    if given.data is not None:
        data.folder = given.data
    if trained.layout == "digits":  # the run's own scenes
        written = sorted(given.checkpoint.parent.parent.glob("digits-*"))
        if written:
            data.layout, data.folder = "voc", str(written[0])
    data.labeled, data.unlabeled, data.held_out = None, None, 0  # which images were trained on does not matter here
    return open_data(data, trained.recipe.running.seed, out, write=False).test


def predict_labels(trained: Trained, sample: Sample, device: torch.device) -> Tensor:
    """Class ids (H, W) int64 at the size of the image file, on the CPU."""
    size = read_image(sample.image).shape[-2:]
    image = read_resized(sample.image, trained.recipe.data.resize)[None].to(device).float() / 255
    with torch.no_grad():
        probabilities = evaluation.predict(trained.model, image, trained.recipe.evaluation, trained.crop)
    return evaluation.resized(probabilities, size).argmax(1)[0].cpu()


def write_masks(labels: Tensor, sample: Sample, layout: str, out: Path) -> None:
    """A palette mask of class ids, and for Cityscapes the label ids that its server takes."""
    picture = Image.fromarray(labels.to(torch.uint8).numpy(), mode="P")
    picture.putpalette(figures.palette(layout))
    save_picture(picture, out / "labels" / f"{sample.image.stem}.png")
    if layout == "cityscapes":
        name = sample.image.stem.removesuffix("_leftImg8bit")
        ids = Image.fromarray(cityscapes.to_label_ids(labels).numpy())
        save_picture(ids, out / "submission" / f"{name}_pred_labelIds.png")


def save_picture(picture: Image.Image, path: Path) -> None:
    content = io.BytesIO()
    picture.save(content, "PNG")
    checkpoint.write_atomically(path, content.getvalue())


def write_table(class_names: list[str], confusion: Tensor, out: Path) -> None:
    """Each class's IoU, recall, precision and share of the pixels: on the screen, and as classes.csv."""
    counts = confusion.double()
    columns = {
        "IoU": metrics.per_class_iou(confusion),
        "recall": counts.diagonal() / counts.sum(1),
        "precision": counts.diagonal() / counts.sum(0),
        "share": counts.sum(1) / counts.sum(),
    }
    table = Table(title=f"mIoU {100 * float(columns['IoU'].nanmean()):.2f}", title_justify="left")
    table.add_column("class")
    for name in columns:
        table.add_column(name, justify="right")
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["class", *columns])
    for number, name in enumerate(class_names):
        values = [float(column[number]) for column in columns.values()]
        table.add_row(name, *("-" if value != value else f"{100 * value:.2f}" for value in values))
        writer.writerow([name, *(f"{value:.6f}" for value in values)])
    Console().print(table)
    checkpoint.write_atomically(out / "classes.csv", text.getvalue().encode())


def draw(
    trained: Trained,
    others: list[Trained],
    given: argparse.Namespace,
    samples: list[Sample],
    out: Path,
    device: torch.device,
) -> None:
    """grid.png: image, truth, the others' predictions, ours; features.png: t-SNE of the features of the same images."""
    rows, features = [], []
    chosen = samples[:: max(1, len(samples) // given.pictures)][: given.pictures]
    for sample in chosen:
        predictions = [predict_labels(each, sample, device) for each in (*others, trained)]
        rows.append([read_image(sample.image), read_labels(sample), *predictions])
        with torch.no_grad():
            image = read_resized(sample.image, trained.recipe.data.resize)[None].to(device).float() / 255
            refined = correct_labels(evaluation.on_its_own(trained.model.refiner), trained.model(image)[0], image)
        labels = read_labels(sample, tuple(image.shape[-2:]))[None].long()
        features.append((refined.features[0].cpu(), refined.features[-1].cpu(), labels))
    names = ["image", "truth", *(f"{path.parent.name}" for path in given.beside), given.checkpoint.parent.name]
    figures.draw_grid(rows, names, out / "grid.png", figures.palette(trained.layout))
    before, after, labels = zip(*features, strict=True)
    if len({part.shape for part in (*before, *labels)}) == 2:  # images of one size
        parts = (torch.cat(part) for part in (before, after, labels))
        figures.draw_features(*parts, trained.class_names, out / "features.png", trained.recipe.running.seed)


if __name__ == "__main__":
    try:
        main(parse())
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
