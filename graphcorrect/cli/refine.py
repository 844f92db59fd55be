"""`graphcorrect refine`: correct a folder of predictions, or what a model says of a folder of images."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from graphcorrect.cells import full_size
from graphcorrect.cli import changes, scores
from graphcorrect.cli.console import in_words, say_notes
from graphcorrect.cli.correcting import Correction, correction, read_unit_image
from graphcorrect.cli.devices import find_device
from graphcorrect.cli.masks import classes_of, corrected_png, png, read_written, refuse_if_many
from graphcorrect.cli.models import Model, identity, open_model, options_named
from graphcorrect.cli.shares import Ranks, share_of
from graphcorrect.files import results
from graphcorrect.files.arrays import ARRAY_ENDINGS
from graphcorrect.files.checker import Checker
from graphcorrect.files.faults import as_bytes, check_writable, reading, refuse
from graphcorrect.files.folders import Folder
from graphcorrect.files.images import IMAGE_ENDINGS, read_image
from graphcorrect.files.items import MASK_ENDINGS, Item, find_items
from graphcorrect.files.probabilities import read_prediction
from graphcorrect.files.saving import write_atomically
from graphcorrect.files.text import few
from graphcorrect.labels import IGNORE_INDEX

# What may differ when a run goes on
NOT_SETTINGS = "out device report_images command version share shard threads names label_map ranks".split()
WRITTEN = ("masks", "records", "before")  # folders in --out
MASK_CONFIDENCE = 0.9
BAR: dict[str, Any] = {"unit": "image", "ncols": 79, "delay": 0.1}  # none where the first step fails


class Finished(NamedTuple):
    """What is known of a corrected image: which labels changed, and, where its truth is known, how."""

    changes: changes.Changes
    outcome: changes.Counts | None


def prepare(args: argparse.Namespace) -> None:
    """What options need of torch and of the disk before any work."""
    # Masks among masks: the next run would take results for inputs, or this one write over them.
    searched = {"--predictions": args.predictions, "--labeled-masks": args.labeled_masks, "--truth": args.truth}
    others = {"--features": args.features, "--labeled-images": args.labeled_images}
    (searched if args.model is not None else others)["--images"] = args.images
    results.check_apart(args.out, WRITTEN, searched=searched, others=others, alone=True)
    args.device = find_device(args.device)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    args.names, args.label_map = classes_of(args.classes)


@in_words(interrupted="interrupted; the same command goes on from here")
def run(args: argparse.Namespace) -> None:
    """Check, correct what is not finished, report."""
    prepare(args)
    args.ranks = Ranks()
    items, labeled, faults = inputs(args)
    if args.mask_confidence is None:
        args.mask_confidence = MASK_CONFIDENCE
    share = share_of(items, args.share)
    settings = settings_of(args, labeled)
    results.check_settings(args.out, settings, WRITTEN)
    if args.ranks.is_first:
        finished = finished_among(args, items)
        waiting = [item for item in share_of_ranks(args, items) if item.name not in finished]
        num_classes, feature_dim = check(args, faults, waiting, labeled if waiting else [])
        check_writable(args.out)
        args.ranks.tell("checked", [num_classes, feature_dim])
    else:
        num_classes, feature_dim = args.ranks.ask("checked")
        finished = finished_among(args, share)
    waiting = [item for item in share if item.name not in finished]
    if waiting:
        correct_all(args, waiting, labeled, (num_classes, feature_dim), settings)
    args.ranks.finish()
    if args.ranks.is_first:
        report(args, items)


def correct_all(
    args: argparse.Namespace, waiting: list[Item], labeled: list[Item], sizes: tuple[int, int], settings: dict[str, Any]
) -> None:
    """Correct what is not finished; `settings` are written with the first result: till then others may come."""
    bar = {"disable": not args.ranks.is_first, **BAR}
    named = {"encoder": "--encoder" if args.corrector is None else "--corrector", "weights": "--encoder-weights"}
    with options_named(**named):
        model = opened(args)
        with tqdm(labeled, "labeled images", **bar) as shown:
            correct_with = correction(args, *sizes, shown)
        with tqdm(waiting, "correcting", **bar) as shown:
            for item in shown:
                files = correct(args, item, sizes[0], correct_with, model)
                if item is waiting[0]:
                    results.check_settings(args.out, settings, WRITTEN)  # other processes may have begun since
                    results.begin(args.out, settings)
                for path, content in files.items():
                    write_atomically(path, content)


def share_of_ranks(args: argparse.Namespace, items: list[Item]) -> list[Item]:
    """What all processes of this launch do: every item, or those of its shard."""
    number, count = args.share
    return [item for rank in range(args.ranks.count) for item in share_of(items, (number + rank, count))]


def inputs(args: argparse.Namespace) -> tuple[list[Item], list[Item], list[str]]:
    """The items to correct, with their truth, the labeled ones, and what is missing."""
    if args.model is None:
        endings = (*ARRAY_ENDINGS, *MASK_ENDINGS)
        items, faults = find_items(args.predictions, endings, args.images, args.features)
        if items:
            check_options(args, {item.labels.suffix.lower() for item in items})
    else:
        items, faults = find_items(args.images, IMAGE_ENDINGS, None, None)
        items = [item._replace(image=item.labels) for item in items]
    if args.truth is not None:
        true = Folder(args.truth, MASK_ENDINGS)
        items = [item._replace(truth=true.files.get(item.name)) for item in items]
        faults += true.faults_of([item.name for item in items])
        if items and all(item.truth is None for item in items):
            faults.append(f"{args.truth}: no mask with the name of an image")
    if args.labeled_masks is None:
        return items, [], faults
    features = None if args.encoder else args.labeled_features
    labeled, more = find_items(args.labeled_masks, MASK_ENDINGS, args.labeled_images, features)
    return items, labeled, faults + more


def check_options(args: argparse.Namespace, endings: set[str]) -> None:
    """Refuses what does not go with the kinds of files in --predictions."""
    if args.mask_confidence is not None and not endings & {*MASK_ENDINGS}:
        raise ValueError(f"expected no --mask-confidence where {args.predictions} has no mask")
    if args.channels is not None and args.features is None and not endings & {*ARRAY_ENDINGS}:
        raise ValueError(f"expected no --channels where {args.predictions} has masks alone")
    if endings & {*MASK_ENDINGS}:
        if args.names is None:
            raise ValueError("expected `--classes` where predictions are masks, got none")
        confidence, count = args.mask_confidence or MASK_CONFIDENCE, len(args.names)
        if count > 1 and confidence <= 1 / count:  # the class of a mask would be no likelier than the others
            raise ValueError(
                f"expected --mask-confidence above 1/{count} = {1 / count:.4g} for masks of {count} classes, "
                f"got {confidence:g}"
            )


def settings_of(args: argparse.Namespace, labeled: list[Item]) -> dict[str, Any]:
    """What the results depend on, as JSON holds it: files by their content, the labeled ones by their fingerprint."""
    settings = {key: value for key, value in vars(args).items() if key not in NOT_SETTINGS}
    weights = args.encoder_weights and args.encoder_weights.resolve()
    named = {"model": args.model, "corrector": args.corrector, "encoder_weights": weights}
    if args.classes is not None and not args.classes.isdecimal():
        named["classes"] = args.classes
    settings |= {key: None if name is None else identity(str(name)) for key, name in named.items()}
    fingerprint = json.dumps([item.fingerprint() for item in labeled])
    settings["labeled_files"] = hashlib.sha256(fingerprint.encode()).hexdigest()
    return results.plain(settings)


def check(args: argparse.Namespace, faults: list[str], waiting: list[Item], labeled: list[Item]) -> tuple[int, int]:
    """Number of classes and of feature entries; one `ValueError` that lists every fault of every file."""
    count = None if args.names is None else len(args.names)
    checker = Checker(count, args.neighbors, args.max_nodes, args.channels, args.label_map)
    with tqdm(waiting, "checking", disable=not waiting, **BAR) as shown:
        for item in shown:
            if args.model is None:
                faults += checker.faults_of_prediction(item, args.mask_confidence)
            else:
                faults += checker.faults_of_image(item)
    if args.model is not None and waiting and not faults:
        checker.classes.given = classes_of_model(args, waiting[0], count)
    if checker.num_classes is not None:
        for item in labeled:
            faults += checker.faults_of_labeled(item)
        for item in waiting:
            faults += [] if item.truth is None else checker.faults_of_truth(item.name, item.truth)
    faults += checker.faults_of_all()
    refuse_if_many(checker.num_classes, faults)
    from_file = args.classes is not None and not args.classes.isdecimal()
    refuse(
        faults,
        f"the folders, for the {len(args.names)} names of {args.classes}, have" if from_file else "the folders have",
    )
    say_notes(checker.notes())
    return checker.num_classes or 0, checker.feature_dim or 18


def classes_of_model(args: argparse.Namespace, item: Item, expected: int | None) -> int:
    """How many classes the model tells apart, as its answer to one image shows."""
    image, model = read_unit_image(item, args.device), opened(args)
    assert image is not None
    assert model is not None
    found = model(image).shape[1]
    if expected is not None and found != expected:
        raise ValueError(f"expected --model of {expected} classes, as --classes says, got {found}")
    return found


def opened(args: argparse.Namespace) -> Model | None:
    """The model, if there is one."""
    if args.model is None:
        return None
    network = open_model(args.model, args.device)
    return Model(network, mean=args.mean, std=args.std, multiple=args.multiple)


@torch.no_grad()
def correct(
    args: argparse.Namespace, item: Item, num_classes: int, correct_with: Correction, model: Model | None
) -> dict[Path, bytes]:
    """The files of one prediction: its mask, and last its record, whose presence says that all are there."""
    files = {}
    inputs = item.fingerprint()
    image = read_unit_image(item, args.device)
    if model is None:
        with reading(item.labels):
            said, known = read_prediction(
                item.labels, args.label_map or num_classes, args.mask_confidence, args.channels
            )
        said, known = said[None].to(args.device), known[None].to(args.device)
        # The logarithm of probabilities is logits; zero has none.
        after = correct_with(item, image, said.clamp_min(1e-8).log(), known).argmax(1)
        before, is_known = said.argmax(1)[0].cpu(), known[0].cpu()
    else:
        assert image is not None
        logits = model(image)
        after = correct_with(item, image, logits, None).argmax(1)
        before = full_size(logits.softmax(1), image.shape[-2], image.shape[-1]).argmax(1)[0].cpu()
        is_known = torch.ones_like(before, dtype=torch.bool)
        files[args.out / "before" / f"{item.name}.png"] = png(before)
    labels = torch.where(is_known, after[0].cpu(), IGNORE_INDEX)
    found = changes.count_changes(item.name, before, labels, is_known)
    mask_file = corrected_png(labels, args.label_map, item.labels)
    files[mask_path(args.out, item.name)] = mask_file
    record: dict[str, Any] = {
        "mask": hashlib.sha256(mask_file).hexdigest(),
        "pixels": found.pixels,
        "flows": changes.as_rows(found.flows),
        "inputs": inputs,
    }
    if args.truth is not None:
        record["truth"] = None
    if item.truth is not None:
        outcome = scores.outcome_of(item.truth, before, labels, args.label_map or num_classes)
        record["truth"] = changes.as_rows(outcome)
    return files | {record_path(args.out, item.name): json.dumps(record).encode()}


def finished_among(args: argparse.Namespace, items: list[Item]) -> dict[str, Finished]:
    """What earlier runs, or other processes, have done."""
    return {item.name: found for item in items if (found := finished_record(args.out, item)) is not None}


def finished_record(out: Path, item: Item) -> Finished | None:
    """What an earlier run found, if its files are those of today and its mask is there, whole."""
    try:
        record = json.loads(record_path(out, item.name).read_text(encoding="utf-8"))
        mask = hashlib.sha256(mask_path(out, item.name).read_bytes()).hexdigest()
        if record["inputs"] != item.fingerprint() or record.get("mask", mask) != mask:
            return None
        flows, truth = changes.counts_in(record["flows"]), record.get("truth")
        found = changes.Changes(item.name, int(record["pixels"]), flows)
        return Finished(found, None if truth is None else changes.counts_in(truth))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or no whole one: it is made again
        return None


def report(args: argparse.Namespace, items: list[Item]) -> None:
    """The CSV files and the page, of all that is finished."""
    finished = finished_among(args, items)
    missing = len(items) - len(finished)
    if missing:
        print(
            f"{len(finished)} of {len(items)} images are corrected: {args.out / 'masks'}; "
            "the same command without --shard adds the rest and the report"
        )
        return
    found = [finished[item.name].changes for item in items]
    most = max((max(pair) for entry in found for pair in entry.flows), default=-1)
    names = args.names or [str(number) for number in range(most + 1)]
    write_atomically(args.out / "changes.csv", as_bytes(changes.changes_csv(found)))
    write_atomically(args.out / "flows.csv", as_bytes(changes.flows_csv(found, names)))
    outcomes = [entry.outcome for entry in finished.values() if entry.outcome is not None]
    summary = scores.summary(outcomes, names) if outcomes else None
    if summary is not None:
        write_atomically(args.out / "scores.csv", as_bytes(summary.csv()))
    by_name = {item.name: item for item in items}
    worst = sorted((entry for entry in found if entry.changed), key=lambda entry: -entry.share)[: args.report_images]
    page = changes.changes_page(found, examples(args, worst, by_name), names, "" if summary is None else summary.line())
    write_atomically(args.out / "report.html", as_bytes(page))
    changed, pixels = sum(entry.changed for entry in found), sum(entry.pixels for entry in found)
    of_inputs = {mask_path(args.out, item.name) for item in items}
    left = sorted(path.name for path in (args.out / "masks").rglob("*.png") if path not in of_inputs)
    if left:
        print(f"note: {args.out / 'masks'} also holds masks of predictions that are gone: {few(left)}; delete them")
    if summary is not None:
        print(summary.line())
    print(f"{len(found)} images, {changed:,} pixels changed ({100 * changed / max(1, pixels):.2f} %): {args.out}")
    print(f"open {args.out / 'report.html'}")


def examples(
    args: argparse.Namespace, entries: list[changes.Changes], items: dict[str, Item]
) -> Iterator[changes.Example]:
    """The images of the page, read one at a time."""
    for entry in entries:
        item = items[entry.name]
        if args.model is not None:
            path = args.out / "before" / f"{item.name}.png"
            with reading(path):
                before = read_written(path, None)
        else:
            with reading(item.labels):
                classes = args.label_map or (None if args.names is None else len(args.names))
                said, known = read_prediction(item.labels, classes, args.mask_confidence, args.channels)
            before = torch.where(known, said.argmax(0), IGNORE_INDEX)
        image, mask = None, mask_path(args.out, item.name)
        if item.image is not None:
            with reading(item.image):
                image = read_image(item.image)
        with reading(mask):
            after = read_written(mask, args.label_map)
        yield changes.Example(entry, image, before, after)


def mask_path(out: Path, name: str) -> Path:
    """Where the corrected mask of an image goes."""
    return out / "masks" / f"{name}.png"


def record_path(out: Path, name: str) -> Path:
    """Where it is written that an image is finished, and what was found."""
    return out / "records" / f"{name}.json"
