"""`graphcorrect issues`: annotations that look wrong, in tables, masks and a page."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from graphcorrect.cli import changes
from graphcorrect.cli.console import in_words, say_notes
from graphcorrect.cli.devices import find_device
from graphcorrect.cli.masks import classes_of, corrected_png, png, read_written, refuse_if_many
from graphcorrect.cli.models import open_encoder, options_named
from graphcorrect.encoders import key_encoder
from graphcorrect.files import results
from graphcorrect.files.arrays import ARRAY_ENDINGS, read_maps
from graphcorrect.files.checker import Checker
from graphcorrect.files.faults import as_bytes, check_writable, refuse
from graphcorrect.files.folders import Folder
from graphcorrect.files.images import read_image
from graphcorrect.files.items import MASK_ENDINGS, Item, find_items
from graphcorrect.files.masks import read_mask
from graphcorrect.files.probabilities import read_probabilities
from graphcorrect.files.saving import write_atomically
from graphcorrect.label_issues import label_issues
from graphcorrect.labels import IGNORE_INDEX

WRITTEN = ("masks", "issues")  # folders in --out
NOT_SETTINGS = ("out", "report_images", "command", "version", "label_map", "device")
MAGNIFICATIONS = (1.0, 2.0)  # at which an encoder looks at the images, as in docs/evidence.md
BAR: dict[str, Any] = {"unit": "image", "ncols": 79, "delay": 0.1}  # none where the first step fails


class Judged(NamedTuple):
    """One image: its score in [0, 1], low where labels look wrong; how many do; and what replaced the surest ones."""

    score: float
    issues: int
    changes: changes.Changes


@in_words(interrupted="interrupted; the same command begins again")
@options_named(encoder="--encoder", weights="--encoder-weights")
def run(args: argparse.Namespace) -> None:
    """Check, judge, report."""
    searched = {"--masks": args.masks}
    others = {"--probabilities": args.probabilities, "--images": args.images, "--features": args.features}
    results.check_apart(args.out, WRITTEN, searched=searched, others=others, alone=True)
    args.device = find_device(args.device)
    names, args.label_map = classes_of(args.classes)
    items, faults = find_items(args.masks, MASK_ENDINGS, args.images, args.features)
    said = Folder(args.probabilities, ARRAY_ENDINGS)
    faults += said.faults_of({item.name: item.labels for item in items})
    faults += [f"{item.labels}: no probabilities of that name in {said.folder}" for item in items
               if item.name not in said.files]  # fmt: skip
    items = [item for item in items if item.name in said.files]
    settings = results.plain({key: value for key, value in vars(args).items() if key not in NOT_SETTINGS})
    results.check_settings(args.out, settings, WRITTEN)
    features = features_of(args, items)
    num_classes = check(args, items, said.files, None if names is None else len(names), faults)
    check_writable(args.out)
    report(args, items, list(judge(args, items, said.files, num_classes, features, settings)), names)


def check(
    args: argparse.Namespace, items: list[Item], said: dict[str, Path], count: int | None, faults: list[str]
) -> int:
    """The number of classes; one `ValueError` that lists every fault of every file."""
    checker = Checker(count, 0, channels=args.channels, label_map=args.label_map)
    for item in tqdm(items, "checking predictions", **BAR):
        faults += checker.faults_of_prediction(Item(item.name, said[item.name], None, None), 1.0)
    for item in tqdm(items, "checking masks", **BAR):
        if item.name not in checker.sizes:  # how many classes there are may not be known
            continue
        faults += checker.faults_of_labeled(item)
        shape, size = checker.sizes[item.name], checker.labeled_sizes.get(item.name)
        if size is not None and any(small > large for small, large in zip(shape, size, strict=True)):
            faults.append(f"{said[item.name]}: is {shape}, larger than {item.labels.name}, {size} (height, width)")
    faults += checker.faults_of_all(void=True)
    refuse_if_many(checker.num_classes, faults)
    refuse(faults, "the folders have")
    say_notes(checker.notes())
    return checker.num_classes or 0


def each(items: list[Item], read: Callable[[Item], Tensor]) -> Callable[[], Iterator[Tensor]]:
    """What is read of each item, as often as it is asked for."""
    return lambda: (read(item) for item in items)


def features_of(args: argparse.Namespace, items: list[Item]) -> Any:
    """Maps of the items, an encoder that makes them, or None."""
    if args.encoder is not None:
        encoder = open_encoder(args.encoder, args.device)
        return key_encoder(encoder, weights=args.encoder_weights, magnifications=MAGNIFICATIONS).to(args.device)
    if args.features is None:
        return None
    return each(items, lambda item: read_maps(_there(item.features), args.channels))


def judge(
    args: argparse.Namespace,
    items: list[Item],
    said: dict[str, Path],
    num_classes: int,
    features: Any,
    settings: dict[str, Any],
) -> Iterator[Judged]:
    """Writes the masks of each image as it is judged, and `settings` before the first: till then others may come."""
    classes = args.label_map or num_classes
    found = label_issues(
        each(items, lambda item: read_mask(item.labels, classes)),
        each(items, lambda item: read_probabilities(said[item.name], num_classes, args.channels).to(args.device)),
        None if args.images is None else each(items, lambda item: read_image(_there(item.image))),
        features=features,
        error_rate=args.error_rate,
        caution=args.caution,
    )
    with tqdm(items, "judging", **BAR) as shown:
        for item, image in zip(shown, found, strict=True):
            if item is items[0]:
                results.begin(args.out, settings)
                results.clear(args.out, WRITTEN)
            issues, corrected = image.issues.cpu(), image.corrected.cpu()
            given = torch.where(issues, read_mask(item.labels, classes), corrected)
            known = given != IGNORE_INDEX
            mask_file = corrected_png(corrected, args.label_map, item.labels)
            write_atomically(args.out / "masks" / f"{item.name}.png", mask_file)
            white = torch.where(issues, 255, 0)
            write_atomically(args.out / "issues" / f"{item.name}.png", png(white, palette=False))
            found_here = changes.count_changes(item.name, given, corrected, known)
            yield Judged(image.image_score, int(issues.sum()), found_here)


def _there(path: Path | None) -> Path:
    assert path is not None
    return path


def report(args: argparse.Namespace, items: list[Item], judged: list[Judged], names: list[str] | None) -> None:
    """The CSV files and the page, the worst images first."""
    ordered = sorted(judged, key=lambda each: (each.score, each.changes.name))
    rows = []
    for each in ordered:
        pixels = each.changes.pixels
        part = f"{each.issues / max(1, pixels):.6f}"
        rows.append((each.changes.name, f"{each.score:.5f}", pixels, each.issues, part, each.changes.changed))
    header = ("image", "score", "pixels", "issues", "share", "replaced")
    write_atomically(args.out / "images.csv", as_bytes(changes.as_csv(header, rows)))
    found = [each.changes for each in ordered]
    most = max((max(pair) for entry in found for pair in entry.flows), default=-1)
    names = names or [str(number) for number in range(most + 1)]
    write_atomically(args.out / "flows.csv", as_bytes(changes.flows_csv(found, names)))
    by_name = {item.name: item for item in items}
    worst = [entry for entry in found if entry.changed][: args.report_images]
    page = changes.changes_page(found, examples(args, worst, by_name), names, title="Labels that look wrong")
    write_atomically(args.out / "report.html", as_bytes(page))
    wrong, pixels = sum(each.issues for each in judged), sum(entry.pixels for entry in found)
    share, replaced = 100 * wrong / max(1, pixels), sum(entry.changed for entry in found)
    print(f"{len(found)} images, {wrong:,} labels look wrong ({share:.2f} %), {replaced:,} replaced: {args.out}")
    if worst:
        print(f"the worst: {', '.join(entry.name for entry in worst[:5])}")
    print(f"open {args.out / 'report.html'}")


def examples(
    args: argparse.Namespace, entries: list[changes.Changes], items: dict[str, Item]
) -> Iterator[changes.Example]:
    """The images of the page, read one at a time."""
    for entry in entries:
        item = items[entry.name]
        before = read_written(item.labels, args.label_map)
        after = read_written(args.out / "masks" / f"{item.name}.png", args.label_map)
        image = None if item.image is None else read_image(item.image)
        yield changes.Example(entry, image, before, after)
