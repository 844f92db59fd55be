"""Correct a folder of saved predictions, without any training.

    python examples/refine_masks.py --predictions probabilities --images photos --out corrected
    python examples/refine_masks.py --predictions masks --features features --classes names.txt --out corrected
    python examples/refine_masks.py --predictions probabilities --features features --out corrected \\
        --labeled-masks labeled/masks --labeled-features labeled/features

Predictions are class probabilities, `.npy` or `.npz` of shape (C, H, W), or masks, `.png` with a palette or in grey,
where 255 means none. Features are `.npy` or `.npz` of shape (D, h, w), of any resolution, from any network; with images
alone they are computed from color and position. Files belong together by name.

The folder of results gets `masks/`, `changes.csv` (one line an image), `flows.csv` (from which class to which) and
`report.html`. Every file is read before any work, and every fault is listed. A run that was interrupted goes on where
it was when it is started again.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from segmentation import changes
from segmentation.devices import find_device
from torch import Tensor
from tqdm import tqdm

from graphcorrect import AnchorBank, DualGraphRefiner
from graphcorrect.cli.console import in_words
from graphcorrect.files import probabilities as saved
from graphcorrect.files import results
from graphcorrect.files.arrays import ARRAY_ENDINGS
from graphcorrect.files.checker import Checker
from graphcorrect.files.class_names import read_class_names
from graphcorrect.files.faults import as_bytes, looks_like, reading, refuse
from graphcorrect.files.images import read_image
from graphcorrect.files.items import MASK_ENDINGS, Item, find_items, read_features
from graphcorrect.files.masks import read_mask
from graphcorrect.files.palette import voc_palette
from graphcorrect.files.saving import write_atomically
from graphcorrect.files.stored_masks import read_ids
from graphcorrect.files.text import few
from graphcorrect.labels import IGNORE_INDEX

# What may differ when a run goes on
NOT_SETTINGS = ("out", "device", "report_images")
WRITTEN = ("masks", "records")  # folders in --out


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of a command line; exits with a message that names the one at fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--predictions", type=Path, required=True, help="folder of probabilities or masks")
    add("--images", type=Path, help="folder of images, for pixel features and for the report")
    add("--features", type=Path, help="folder of feature maps")
    add("--labeled-masks", type=Path, help="folder of true masks, whose pixels are looked up")
    add("--labeled-images", type=Path, help="their images; default: --images")
    add("--labeled-features", type=Path, help="their feature maps; default: --features")
    add("--classes", help="number of classes, or a file with a name a line; needed where predictions are masks")
    add("--out", type=Path, required=True, help="folder of results")
    add("--device", default="auto", help="auto (cuda if there is one), cpu, cuda, cuda:1, ...")
    add("--channels", choices=["first", "last"], help="where arrays have classes or channels; default: first, checked")
    add("--rounds", type=int, default=2, help="rounds of correction")
    add("--neighbors", type=int, default=20, help="neighbors of a pixel")
    add("--alpha", type=float, default=0.2, help="share of the correction that confident pixels take")
    add("--sigma", type=float, default=0.95, help="base confidence of the class thresholds")
    add("--max-nodes", type=int, default=4096, help="most nodes of a graph; larger maps are pooled")
    add("--mask-confidence", type=float, default=0.9, help="probability that a mask's class gets")
    add("--position-weight", type=float, default=1.0, help="weight of row and column among the pixel features")
    add("--anchor-capacity", type=int, default=3000, help="most labeled pixels of a class to look up")
    add("--report-images", type=int, default=60, help="images on the page, those that changed most")
    args = parser.parse_args(arguments)

    if args.features is None and args.images is None:
        parser.error("expected --features or --images, got neither")
    if args.labeled_masks is None and (args.labeled_images or args.labeled_features):
        parser.error("expected --labeled-masks beside --labeled-images or --labeled-features, got none")
    if args.features is None and args.labeled_features is not None:
        parser.error("expected --features beside --labeled-features, got none")
    if args.labeled_masks is not None and args.features is not None:
        args.labeled_images, args.labeled_features = None, args.labeled_features or args.features
    elif args.labeled_masks is not None:
        args.labeled_images = args.labeled_images or args.images
    for key in ("predictions", "images", "features", "labeled_masks", "labeled_images", "labeled_features"):
        folder = getattr(args, key)
        if folder is not None and not folder.is_dir():
            parser.error(f"expected --{key.replace('_', '-')} to be a folder, got {str(folder)!r}")
    # Masks among masks: the next run would take results for inputs, or this one write over them.
    searched = {"--predictions": args.predictions, "--labeled-masks": args.labeled_masks}
    others = {"--images": args.images, "--features": args.features, "--labeled-images": args.labeled_images}
    try:
        results.check_apart(args.out, WRITTEN, searched=searched, others=others)
        args.device = find_device(args.device)
    except ValueError as error:
        parser.error(str(error))
    at_least = {"rounds": 1, "neighbors": 1, "max_nodes": 1, "anchor_capacity": 1, "report_images": 0}
    for key, least in at_least.items():
        if getattr(args, key) < least:
            parser.error(f"expected --{key.replace('_', '-')} to be at least {least}, got {getattr(args, key)}")
    if args.max_nodes <= args.neighbors:
        parser.error(f"expected --max-nodes above --neighbors, {args.neighbors}, got {args.max_nodes}")
    for key in ("alpha", "sigma"):
        if not 0 <= getattr(args, key) <= 1:
            parser.error(f"expected --{key} in [0, 1], got {getattr(args, key)}")
    if not 0 < args.mask_confidence <= 1:
        parser.error(f"expected --mask-confidence in (0, 1], got {args.mask_confidence}")
    if not 0 <= args.position_weight < math.inf:
        parser.error(f"expected --position-weight to be at least 0 and finite, got {args.position_weight}")
    if args.rounds > 1000:
        parser.error(f"expected --rounds to be at most 1000, got {args.rounds}")
    return args


def main(args: argparse.Namespace) -> None:
    """Check, correct what is not finished, report."""
    args.names = class_names(args.classes)
    items, faults = find_items(args.predictions, (*ARRAY_ENDINGS, *MASK_ENDINGS), args.images, args.features)
    labeled: list[Item] = []
    if args.labeled_masks is not None:
        labeled, more = find_items(args.labeled_masks, MASK_ENDINGS, args.labeled_images, args.labeled_features)
        faults += more
    settings = settings_of(args, labeled)
    results.check_settings(args.out, settings, WRITTEN)
    finished = {item.name: record for item in items if (record := finished_record(args.out, item)) is not None}
    waiting = [item for item in items if item.name not in finished]
    num_classes, feature_dim = check(args, faults, waiting, labeled if waiting else [])
    results.begin(args.out, settings)
    if waiting:
        refiner, anchors = build(args, num_classes, feature_dim, labeled)
        for item in tqdm(waiting, desc="correcting", unit="image"):
            finished[item.name] = correct(args, item, refiner, anchors)
    report(args, items, finished)


def class_names(classes: str | None) -> list[str] | None:
    """Names of the classes: from a file, or numbers; None leaves it to the predictions."""
    if classes is None:
        return None
    if classes.isdecimal() and int(classes) > 0:
        return [str(number) for number in range(int(classes))]
    path = Path(classes)
    if not (path.exists() or path.is_symlink()):
        raise ValueError(f"expected --classes as a number or a file with a name a line, got {classes!r}")
    with reading(path, "a class name a line"):
        if fault := looks_like(path):
            raise ValueError(fault)
        names, notes = read_class_names(path)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return names


def settings_of(args: argparse.Namespace, labeled: list[Item]) -> dict[str, Any]:
    """What the results depend on, as JSON holds it; of the labeled files their fingerprint."""
    settings = {key: value for key, value in vars(args).items() if key not in NOT_SETTINGS}
    if settings["channels"] is None:
        del settings["channels"]  # as results were made before there was a choice
    fingerprint = json.dumps([item.fingerprint() for item in labeled])
    settings["labeled_files"] = hashlib.sha256(fingerprint.encode()).hexdigest()
    return results.plain(settings)


def check(args: argparse.Namespace, faults: list[str], waiting: list[Item], labeled: list[Item]) -> tuple[int, int]:
    """Number of classes and of feature entries; one `ValueError` that lists every fault of every file."""
    count = None if args.names is None else len(args.names)
    checker = Checker(count, args.neighbors, args.max_nodes, args.channels)
    for item in tqdm(waiting, desc="checking", unit="image", disable=not waiting):
        faults += checker.faults_of_prediction(item, args.mask_confidence)
    if checker.num_classes is not None:
        for item in labeled:
            faults += checker.faults_of_labeled(item)
    faults += checker.faults_of_all()
    if checker.num_classes is not None and checker.num_classes > IGNORE_INDEX:
        faults.append(f"{checker.num_classes} classes, expected at most {IGNORE_INDEX}, as masks hold 8 bits")
    from_file = args.classes is not None and not args.classes.isdecimal()
    refuse(
        faults,
        f"the folders, for the {len(args.names)} names of {args.classes}, have" if from_file else "the folders have",
    )
    return checker.num_classes or 0, checker.feature_dim or 18


def build(
    args: argparse.Namespace, num_classes: int, feature_dim: int, labeled: list[Item]
) -> tuple[DualGraphRefiner, AnchorBank | None]:
    """An untrained refiner, and the bank of labeled pixels if there are any."""
    refiner = DualGraphRefiner(
        num_classes,
        feature_dim,
        num_rounds=args.rounds,
        num_neighbors=args.neighbors,
        alpha=args.alpha,
        sigma=args.sigma,
        max_nodes=args.max_nodes,
    )
    refiner = refiner.to(args.device).eval()
    if not labeled:
        return refiner, None
    anchors = AnchorBank(num_classes, feature_dim, capacity_per_class=args.anchor_capacity).to(args.device)
    for item in tqdm(labeled, desc="labeled pixels", unit="image"):
        features = read_features(item, args.position_weight, args.channels)
        with reading(item.labels):
            labels = read_mask(item.labels, num_classes)
        anchors.update(features[None].to(args.device), labels[None].to(args.device))
    if not anchors.counts.any():
        raise ValueError(
            f"expected --labeled-masks with labeled pixels, got {args.labeled_masks} in which every pixel is void, "
            "or every cell of the features"
        )
    return refiner, anchors


@torch.no_grad()
def correct(
    args: argparse.Namespace, item: Item, refiner: DualGraphRefiner, anchors: AnchorBank | None
) -> changes.Changes:
    """Correct one prediction and write its mask, then its record, whose presence says that both are there."""
    inputs = item.fingerprint()
    probabilities, known = read_prediction(args, item, refiner.num_classes)
    features = read_features(item, args.position_weight, args.channels)
    # The logarithm of probabilities is logits; zero has none.
    logits = probabilities.clamp_min(1e-8).log()
    features, logits, mask = (tensor[None].to(args.device) for tensor in (features, logits, known))
    after = refiner(features, logits, mask=mask, anchors=anchors).pseudo_labels[0].cpu()
    after = torch.where(known, after, IGNORE_INDEX)
    found = changes.count_changes(item.name, probabilities.argmax(0), after, known)
    mask_file = png(after)
    write_atomically(mask_path(args.out, item.name), mask_file)
    record = {
        "mask": hashlib.sha256(mask_file).hexdigest(),
        "pixels": found.pixels,
        "flows": [[*pair, count] for pair, count in found.flows.items()],
        "inputs": inputs,
    }
    write_atomically(record_path(args.out, item.name), json.dumps(record).encode())
    return found


def read_prediction(args: argparse.Namespace, item: Item, num_classes: int | None) -> tuple[Tensor, Tensor]:
    """Class probabilities (C, H, W) and where there is a prediction at all, (H, W) bool."""
    with reading(item.labels):
        return saved.read_prediction(item.labels, num_classes, args.mask_confidence, args.channels)


def finished_record(out: Path, item: Item) -> changes.Changes | None:
    """What an earlier run found, if its files are those of today and its mask is there, whole."""
    try:
        record = json.loads(record_path(out, item.name).read_text(encoding="utf-8"))
        mask = hashlib.sha256(mask_path(out, item.name).read_bytes()).hexdigest()
        if record["inputs"] != item.fingerprint() or record.get("mask", mask) != mask:
            return None
        flows = {(int(old), int(new)): int(count) for old, new, count in record["flows"]}
        return changes.Changes(item.name, int(record["pixels"]), flows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or no whole one: it is made again
        return None


def report(args: argparse.Namespace, items: list[Item], finished: dict[str, changes.Changes]) -> None:
    """The two CSV files and the page."""
    found = [finished[item.name] for item in items]
    most = max((max(pair) for entry in found for pair in entry.flows), default=-1)
    names = args.names or [str(number) for number in range(most + 1)]
    write_atomically(args.out / "changes.csv", as_bytes(changes.changes_csv(found)))
    write_atomically(args.out / "flows.csv", as_bytes(changes.flows_csv(found, names)))
    by_name = {item.name: item for item in items}
    worst = sorted((entry for entry in found if entry.changed), key=lambda entry: -entry.share)[: args.report_images]
    page = changes.changes_page(found, examples(args, worst, by_name), names)
    write_atomically(args.out / "report.html", as_bytes(page))
    changed, pixels = sum(entry.changed for entry in found), sum(entry.pixels for entry in found)
    print(f"{len(found)} images, {changed:,} pixels changed ({100 * changed / max(1, pixels):.2f} %): {args.out}")
    of_inputs = {mask_path(args.out, item.name) for item in items}
    left = sorted(path.name for path in (args.out / "masks").rglob("*.png") if path not in of_inputs)
    if left:
        print(f"note: {args.out / 'masks'} also holds masks of predictions that are gone: {few(left)}; delete them")


def examples(
    args: argparse.Namespace, entries: list[changes.Changes], items: dict[str, Item]
) -> Iterator[changes.Example]:
    """The images of the page, read one at a time."""
    for entry in entries:
        item = items[entry.name]
        probabilities, known = read_prediction(args, item, None if args.names is None else len(args.names))
        before = torch.where(known, probabilities.argmax(0), IGNORE_INDEX)
        image, mask = None, mask_path(args.out, item.name)
        if item.image is not None:
            with reading(item.image):
                image = read_image(item.image)
        with reading(mask):
            after = torch.from_numpy(read_ids(mask).ids)
        yield changes.Example(entry, image, before, after)


def mask_path(out: Path, name: str) -> Path:
    return out / "masks" / f"{name}.png"


def record_path(out: Path, name: str) -> Path:
    return out / "records" / f"{name}.json"


def png(labels: Tensor) -> bytes:
    """A mask (H, W) as a palette PNG in VOC's colors."""
    mask = Image.fromarray(labels.to(torch.uint8).numpy())
    mask.putpalette(voc_palette())
    content = io.BytesIO()
    mask.save(content, "PNG")
    return content.getvalue()


def run(arguments: list[str] | None = None) -> Any:
    """The command line; what went wrong is said without the path it took through the code."""
    with in_words(interrupted="interrupted; the same command goes on from here"):
        main(parse(arguments))


if __name__ == "__main__":
    run()
