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
import os
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from segmentation import cityscapes, evaluation, figures, report
from segmentation.checking import ROLES, look_at
from segmentation.contents import faults_of_all
from segmentation.datasets import Sample, SegmentationData, read_labels
from segmentation.layouts import open_data
from segmentation.model import refine
from segmentation.scores import Confusions, groups_of, scores_of
from segmentation.trained import Trained, open_checkpoint, titles
from torch import Tensor
from tqdm import tqdm

from graphcorrect import metrics
from graphcorrect.cli.changes import as_csv
from graphcorrect.cli.console import in_words
from graphcorrect.cli.devices import find_device
from graphcorrect.files import results
from graphcorrect.files.faults import as_bytes, reading, refuse
from graphcorrect.files.folders import Folder, name_below
from graphcorrect.files.images import IMAGE_ENDINGS, read_image
from graphcorrect.files.saving import write_atomically
from graphcorrect.files.stored_masks import StoredMask, write_stored_mask
from graphcorrect_cli.parser import at_least

WRITTEN = ("labels", "submission", "classes.csv", "scores.json", "grid.png", "features.png")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("checkpoint", type=Path, help="last.pt or best.pt in a method's folder of a run")
    add("--network", default="model", choices=["model", "teacher"], help="the student, or its running average")
    add("--data", help="the data set's folder; default: that of the training")
    add("--classes", help="file of its class names, as of a training; default: that of the training, else the folder's")
    add("--images", type=Path, help="predict all images below this folder instead; nothing is scored")
    add("--out", type=Path, help="default: `evaluation` beside the checkpoint")
    add("--overwrite", action="store_true", help="replace an evaluation of something else in --out")
    add("--beside", type=Path, nargs="+", default=[], help="other checkpoints, to draw their predictions too")
    add("--mode", choices=["whole", "sliding"], help="default: the recipe's")
    side = at_least(16)
    add("--window", type=side, nargs=2, metavar=("H", "W"), help="of the sliding mode; default: the training's crop")
    add("--scales", type=at_least(0.001, float, 16), nargs="+", help="average over the image at these scales")
    add("--flip", action="store_true", help="and over its mirror image")
    add("--pictures", type=at_least(0, int, 50), default=6, help="rows of grid.png; 0: none")
    add("--device", default="auto", help="auto (cuda if there is one), cpu, cuda, cuda:1, ...")
    add("--no-masks", action="store_true", help="only scores and pictures")
    given = parser.parse_args(arguments)
    if given.images is not None and given.data is not None:
        parser.error("expected --images or --data, got both")
    if given.images is not None and not given.images.is_dir():
        parser.error(f"expected --images to be a folder, got {str(given.images)!r}")
    if given.images is not None and given.beside:
        parser.error("expected --data beside --beside, got --images, which have no truth to draw")
    return given


def main(given: argparse.Namespace) -> dict[str, Any]:
    """Do it, and return what is in `scores.json`."""
    device = find_device(given.device)
    trained = open_checkpoint(given.checkpoint, given.network, device)
    others = [open_checkpoint(path, given.network, device) for path in given.beside]
    for path, other in zip(given.beside, others, strict=True):
        if other.class_names != trained.class_names:
            raise ValueError(f"expected --beside with the classes of {given.checkpoint}, got {path} with others")
    for each in (*others, trained):
        settings = each.recipe.evaluation
        settings.mode, settings.flip = given.mode or settings.mode, given.flip or settings.flip
        settings.scales = tuple(given.scales or settings.scales)
        settings.window = tuple(given.window) if given.window else settings.window
    if given.window and settings.mode != "sliding":
        raise ValueError(f"expected --mode sliding beside --window, got {settings.mode}")
    out = given.out or given.checkpoint.parent / "evaluation"
    asked = results.plain(
        {"checkpoint": given.checkpoint, "network": given.network, "data": given.data, "images": given.images}
        | {"classes": given.classes, "mode": settings.mode, "scales": settings.scales, "flip": settings.flip}
        | {"window": settings.window}
    )
    results.check_apart(out, WRITTEN[:2], searched={"--images": given.images})
    if not (given.overwrite and results.is_ours(out)):
        results.check_settings(out, asked, WRITTEN[:2], " (or --overwrite)")
    samples, data = find_samples(given, trained, out)
    names = names_of(samples, given.images)
    check(samples, trained, data)
    results.begin(out, asked)
    results.clear(out, WRITTEN)

    num_classes = len(trained.class_names)
    counted = Confusions(groups_of(samples, settings.dice), num_classes, torch.device("cpu"))
    for sample, name in zip(tqdm(samples, "predicting"), names, strict=True):
        labels = predict_labels(trained, sample, device)
        if not given.no_masks:
            write_masks(labels, sample, name, trained.layout, out)
        if sample.mask is not None:
            with reading(sample.mask):
                counted.add(labels[None], read_labels(sample)[None].long())
    confusion = counted.counts.sum(0)
    scores: dict[str, Any] = {"checkpoint": str(given.checkpoint), "step": trained.step, "images": len(samples)}
    if confusion.sum() > 0:
        iou = metrics.per_class_iou(confusion)
        scores |= {"miou": float(iou.nanmean()), "accuracy": metrics.accuracy(confusion)}
        scores["classes"] = dict(zip(trained.class_names, iou.tolist(), strict=True))
        found = scores_of(counted.counts, trained.class_names, settings.dice)
        scores |= {key: value for key, value in found.items() if key.startswith("dice")}
    scores |= {"mode": settings.mode, "scales": list(settings.scales), "flip": settings.flip}
    report.save_results(scores, out / "scores.json")  # before anything is printed or drawn, which may fail
    if confusion.sum() > 0:
        write_table(trained.class_names, confusion, out)
    scored = [sample for sample in samples if sample.mask is not None]
    if given.pictures and scored:
        draw(trained, others, given, scored, out, device)
    return scores


def find_samples(
    given: argparse.Namespace, trained: Trained, out: Path
) -> tuple[list[Sample], SegmentationData | None]:
    """The test images of the data set, and that; or all images below a folder, and None."""
    if given.images is not None:
        found = Folder(given.images, IMAGE_ENDINGS)
        refuse(found.faults_of(), "the folder of --images has")
        found.say_what_is_left_out()
        if not found.files:
            raise ValueError(f"expected images below --images, found none in {str(given.images)!r}")
        return [Sample(path, None) for path in found.files.values()], None
    data = trained.recipe.data
    if given.data is not None:
        data.test, data.classes = (moved(path, data.folder, given.data) for path in (data.test, data.classes))
        data.folder = given.data
    if given.classes is not None:
        data.classes = given.classes
    elif data.classes is not None and not Path(data.classes).is_file():
        data.classes = None  # the folder's own then, whose names must be those of the training
    if trained.layout == "digits":  # the run's own scenes
        scenes = f"digits-{data.scenes[0]}-{data.scenes[1]}-seed{trained.recipe.running.seed}"
        written = given.checkpoint.parent.parent / scenes
        if (written / "classes.txt").is_file():
            data.layout, data.folder = "voc", str(written)
    opened = open_data(data, trained.recipe.running.seed, out, only_test=True)
    if opened.class_names != trained.class_names:
        differ = [pair for pair in zip(trained.class_names, opened.class_names, strict=False) if pair[0] != pair[1]]
        raise ValueError(
            f"expected data of the network's {len(trained.class_names)} classes in their order, got "
            f"{len(opened.class_names)} in {data.folder}"
            + (f": class {differ[0][1]!r} where the network has {differ[0][0]!r}" if differ else "")
            + "; --classes names another file of class names"
        )
    if not opened.test:
        raise ValueError(f"expected test images in the data set, found none in {data.folder}")
    return opened.test, opened


def moved(path: str | None, old: str | None, new: str) -> str | None:
    """A file of a data set's folder in another folder, if it is there; other paths as they are."""
    if path is None or old is None or not Path(path).is_relative_to(old):
        return path
    there = Path(new) / Path(path).relative_to(old)
    return str(there) if there.is_file() else path


def names_of(samples: list[Sample], images: Path | None) -> list[str]:
    """What each image's results are called, no two alike.

    Below --images their paths without the ending; of a data set the files' names, where two share one their paths.
    """
    folder = images
    if folder is None:
        stems = [sample.image.stem for sample in samples]
        if len(set(stems)) == len(stems):
            return stems
        folder = Path(os.path.commonpath([sample.image.parent for sample in samples]))
    names = [name_below(folder, sample.image) for sample in samples]
    first: dict[str, Path] = {}
    faults = []
    for name, sample in zip(names, samples, strict=True):
        if name in first:
            faults.append(f"{sample.image}: has the same name as {first[name]}")
        first.setdefault(name, sample.image)
    refuse(faults, "the images have")
    return names


def check(samples: list[Sample], trained: Trained, data: SegmentationData | None) -> None:
    """Read every file before any work; one `ValueError` lists all faults."""
    count, shown = len(trained.class_names), tqdm(samples, "checking files", leave=False, delay=3)
    found = [(sample, look_at(sample, count, needs_mask=data is not None)) for sample in shown]
    faults = [fault for _, each in found for fault in each.faults]
    if data is not None and not faults:  # what only all masks together show
        faults += faults_of_all({role: found if role == "test" else [] for role in ROLES}, data)
    if trained.layout == "cityscapes":
        sent: dict[str, Path] = {}
        for sample in samples:
            other = sent.setdefault(sample.image.stem, sample.image)
            if other != sample.image:
                faults.append(f"{sample.image}: its name in `submission` would be that of {other}")
    refuse(faults, "the images have")


def predict_labels(trained: Trained, sample: Sample, device: torch.device) -> Tensor:
    """Class ids (H, W) int64 at the size of the image file, on the CPU."""
    with reading(sample.image, "an image"):
        size = read_image(sample.image).shape[-2:]
        image = read_image(sample.image, trained.recipe.data.resize)[None].to(device).float() / 255
    with torch.no_grad():
        probabilities = evaluation.predict(trained.model, image, trained.recipe.evaluation, trained.crop)
    return evaluation.resized(probabilities, size).argmax(1)[0].cpu()


def write_masks(labels: Tensor, sample: Sample, name: str, layout: str, out: Path) -> None:
    """A palette mask of class ids, and for Cityscapes the label ids that its server takes."""
    stored = StoredMask(labels.to(torch.uint8).numpy(), figures.palette(layout))
    write_stored_mask(out / "labels" / f"{name}.png", stored)
    if layout == "cityscapes":
        stem = sample.image.stem.removesuffix("_leftImg8bit")
        ids = StoredMask(cityscapes.to_label_ids(labels).numpy())
        write_stored_mask(out / "submission" / f"{stem}_pred_labelIds.png", ids)


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
    rows = []
    for number, name in enumerate(class_names):
        values = [float(column[number]) for column in columns.values()]
        table.add_row(escape(name), *("-" if value != value else f"{100 * value:.2f}" for value in values))
        rows.append((name, *(f"{value:.6f}" for value in values)))
    write_atomically(out / "classes.csv", as_bytes(as_csv(("class", *columns), rows)))
    Console().print(table)


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
            image = read_image(sample.image, trained.recipe.data.resize)[None].to(device).float() / 255
            refined = refine(evaluation.on_its_own(trained.model.refiner), trained.model(image)[0])
        labels = read_labels(sample, tuple(image.shape[-2:]))[None].long()
        features.append((refined.features[0].cpu(), refined.features[-1].cpu(), labels))
    names = ["image", "truth", *titles([*given.beside, given.checkpoint])]
    figures.draw_grid(rows, names, out / "grid.png", figures.palette(trained.layout))
    before, after, labels = zip(*features, strict=True)
    same_size = len({part.shape for part in (*before, *labels)}) == 2
    scored = sum(int((part != 255).sum()) for part in labels)
    if not same_size or scored < 4:
        print("note: features.png is drawn of images of one size with labeled pixels, and left out here")
        return
    parts = (torch.cat(part) for part in (before, after, labels))
    figures.draw_features(*parts, trained.class_names, out / "features.png", trained.recipe.running.seed)


def run(arguments: list[str] | None = None) -> None:
    """The command line; what went wrong is said without the path it took through the code."""
    with in_words():
        main(parse(arguments))


if __name__ == "__main__":
    run()
