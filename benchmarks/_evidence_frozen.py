"""The frozen study's tables for docs/evidence.md: gains, what each part is worth, the paper's ablations, failures."""

from __future__ import annotations

import statistics
from typing import Any

from _tables import spread

SPLITS = {"test": "test frames", "unlabeled": "unlabeled frames", "held_out": "held-out frames"}
GRAPHS = "graphs of the paper"

FROZEN = """## A frozen teacher

A network trained for {warmup} steps on 46 frames, frozen; its labels of other frames before and after correction,
without any training of the graphs. Three seeds, each with its own network and labeled frames: mean and standard
deviation. Fixed / broken counts pixels; the worst class is the largest loss of one class's IoU in the mean over
seeds.

`whole` looks up labeled pixels ({{class}}`graphcorrect.AnchorBank`, 10,000 a class; keys are two middle levels of the
encoder *as it was before training*, of the image as it is and at twice and three times its size), then runs the paper's
two graphs, and takes the result to full resolution along the image's edges ({{func}}`graphcorrect.guided_upsample`).
`whole, anchors of all frames` looks up the pixels of all 319 frames with their true labels: what more labels from the
same drives would be worth.

The gain comes from the anchors: the published graphs alone average the teacher's own opinions and change nothing,
and torch-geometric's propagation over the same neighbors (20 layers, share 0.8) smooths thin classes away. The graphs
then cost some tenths of a point beside anchors and edges alone, and break fewer labels. The image's edges turn broken
labels into fixed ones. On frames from other drives less is known of what is there, and the gain is smaller.

![Gains, labels fixed and broken, and the change of every class, on test frames](images/frozen.png)

What the anchors are looked up by is worth more than any other setting. An encoder that was trained on 46 frames knows
them by heart: by its keys (three levels, of the image and at twice its size, 3,000 anchors a class; commit 1d65e00)
the labels of these very teachers gained 3.5 points on unlabeled frames and 2.9 on test frames. Levels, sizes, the
number of anchors, k and the temperature were chosen on the held-out frames of seeds 0 and 1, among twenty settings:
larger images and more anchors helped, further levels, k = 50 and a temperature of 0.2 did not.

`python benchmarks/label_correction.py frozen --data CamVid`
"""

ABLATION = """### What each part is worth

On unlabeled frames, against `whole`. `graphs of the paper` is the method as published, untrained, without anchors.
The first design of the anchors had keys at 1/8 (thin things have none there), strength 0.5 and eps 0.02.
"""

ROWS = """### The paper's ablations, on the frozen teachers

Rows as `reproduce.py` names them: order of the graphs (Table VI), neighbors k, the class threshold of Eq. (9), alpha
(Table X), rounds K and sigma, each changed alone. On unlabeled frames.
"""

FAILURES = """### Where it fails

What `whole` did on test frames of seed 0: the four frames it helped most, four in the middle, the four it helped
least. (The photographs are not ours to show.) What is broken where it helped least are whole regions: crowns of trees,
walls, what is far away.

![Labels fixed, broken and left wrong by the correction on twelve frames](images/outcomes.png)

The net change of a frame is labels fixed less labels broken, as a share of its labeled pixels.
"""


def frozen(record: dict[str, Any]) -> str:
    results, classes = record["results"], record["classes"]
    headline = list(dict.fromkeys(result["side"] for result in results if result["split"] == "test"))
    parts = [FROZEN.format(warmup=record["settings"]["warmup"])]
    for split, title in SPLITS.items():
        found = [result for result in results if result["split"] == split]
        names = [name for name in headline if any(result["side"] == name for result in found)]
        parts.append(f"On {found[0]['images']} {title}:\n\n{gains(found, names, classes)}")
    judged = [result for result in results if result["split"] == "unlabeled"]
    sides = list(dict.fromkeys(result["side"] for result in judged))
    varied = [side.removeprefix(f"{GRAPHS}, ") for side in sides if side.startswith(f"{GRAPHS}, ")]
    ours = [side for side in sides if side.split(", ")[-1] not in varied]
    parts.append(f"{ABLATION}\n{gains(judged, ours, classes)}")
    parts.append(f"{ROWS}\n{by_row(judged, varied)}")
    parts.append(f"{FAILURES}\n{by_image(results)}")
    parts.append("### By class and by confidence, test frames\n\n" + by_class(results, classes))
    parts.append(by_confidence(results, record["bins"]))
    return "\n".join(parts)


def by_row(results: list[dict[str, Any]], varied: list[str]) -> str:
    """The rows of the paper's ablations that change the graphs: with anchors and edges, and the graphs alone."""
    rows = [
        "| row | whole: gain | fixed / broken | graphs alone: gain | fixed / broken |",
        "|---|--:|--:|--:|--:|",
    ]
    for row in ["", *varied]:
        cells = []
        for side in ("whole", GRAPHS):
            found = [result for result in results if result["side"] == (f"{side}, {row}" if row else side)]
            cells += gain_and_ratio(found)
        rows.append(f"| {f'`{row}`' if row else 'the defaults'} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def by_image(results: list[dict[str, Any]]) -> str:
    """How many frames a correction made worse, and how its gains and losses spread over frames."""
    rows = [
        "| frames | made worse | net change, worst tenth | median | best tenth |",
        "|---|--:|--:|--:|--:|",
    ]
    for split, title in SPLITS.items():
        found = [result for result in results if result["split"] == split and result["side"] == "whole"]
        worse, low, middle, high = [], [], [], []
        for result in found:
            pixels = sum(count for *_, count in result["by_confidence"]) / len(result["by_image"])
            net = sorted(100 * (fixed - broken) / pixels for fixed, broken in result["by_image"])
            deciles = statistics.quantiles(net, n=10)
            worse.append(100 * sum(change < 0 for change in net) / len(net))
            low.append(deciles[0])
            middle.append(statistics.median(net))
            high.append(deciles[-1])
        cells = [f"{spread(worse, digits=0)} %", *(f"{spread(values, '+')} %" for values in (low, middle, high))]
        rows.append(f"| {found[0]['images']} {title} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def gains(results: list[dict[str, Any]], names: list[str], classes: list[str]) -> str:
    rows = [
        "| correction | before | after | gain | fixed / broken | worst class |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for name in names:
        found = [result for result in results if result["side"] == name]
        before, after = ([100 * result[key] for result in found] for key in ("before", "after"))
        gain, ratio = gain_and_ratio(found)
        changes = class_changes(found)
        worst = min(range(len(classes)), key=lambda place: changes[place])
        rows.append(
            f"| {name} | {spread(before)} | {spread(after)} | {gain} | {ratio} | "
            f"{classes[worst]} {changes[worst]:+.1f} |"
        )
    return "\n".join(rows) + "\n"


def gain_and_ratio(found: list[dict[str, Any]]) -> tuple[str, str]:
    """The gain in mIoU, in points, and labels fixed for one broken, over seeds."""
    gain = [100 * (result["after"] - result["before"]) for result in found]
    ratio = [result["fixed"] / max(1, result["broken"]) for result in found]
    return spread(gain, "+"), spread(ratio, digits=2)


def class_changes(found: list[dict[str, Any]]) -> list[float]:
    """Mean over seeds of each class's gain in IoU, in points."""
    pairs = [zip(result["iou_before"], result["iou_after"], strict=True) for result in found]
    return [100 * statistics.mean(late - early for early, late in column) for column in zip(*pairs, strict=True)]


def by_class(results: list[dict[str, Any]], classes: list[str]) -> str:
    found = [result for result in results if result["split"] == "test" and result["side"] == "whole"]
    rows = ["| class | IoU before | after | change |", "|---|--:|--:|--:|"]
    for place, (name, change) in enumerate(zip(classes, class_changes(found), strict=True)):
        before, after = (
            100 * statistics.mean(result[key][place] for result in found) for key in ("iou_before", "iou_after")
        )
        rows.append(f"| {name} | {before:.1f} | {after:.1f} | {change:+.1f} |")
    return "\n".join(rows) + "\n"


def by_confidence(results: list[dict[str, Any]], bins: list[float]) -> str:
    found = [result for result in results if result["split"] == "test" and result["side"] == "whole"]
    rows = ["| teacher's confidence | share of pixels | fixed | broken | fixed / broken |", "|---|--:|--:|--:|--:|"]
    total = sum(count[2] for result in found for count in result["by_confidence"])
    for number, (low, high) in enumerate(zip(bins, bins[1:], strict=False)):
        fixed, broken, pixels = (sum(result["by_confidence"][number][place] for result in found) for place in range(3))
        ratio = f"{fixed / broken:.2f}" if broken else ""
        rows.append(f"| {low:.2f} to {min(high, 1):.2f} | {pixels / total:.1%} | {fixed:,} | {broken:,} | {ratio} |")
    return "\n".join(rows) + "\n"
