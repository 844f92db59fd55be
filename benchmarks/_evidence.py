"""The tables of docs/evidence.md, from the JSON of `label_correction.py` alone; `_render.py` writes the page."""

from __future__ import annotations

import json
import statistics
from typing import Any

from _harness import RESULTS

INTRODUCTION = """# Evidence

Does the correction correct? Every table here is made from the JSON that `python benchmarks/label_correction.py`
wrote, with every seed in it. The street scenes are CamVid's at 240 x 180 (11 classes): 48 evenly spread frames of
its 367 training frames are held out, on which settings were chosen; of the rest each seed draws 46 labeled frames
at random, and the others are unlabeled. Most training frames lie 30 frames apart in video, so that an unlabeled
frame often has a labeled neighbor in time; the 233 test frames come from other drives. CamVid's own `val`, one
short clip, is not used.

The network is DeepLabV3+ on an EfficientNet-Lite0, the one pretrained backbone that a package registry carries, and
its schedules are those of a CPU. **The paper's ResNet-101 and its 100 epochs were not run**: nothing here stands
for its tables. What can be rerun where its data and a GPU are is in [Reproducing the paper](reproduce.md).
"""

NOISE = """## Labels corrupted on purpose

Features whose true labels are known, a share of the labels replaced: by any other class (uniform), by a class in
proportion to its likeness (similar), or always by the next one (pair), where from half on no neighbor can know
better. An *untrained* refiner, k = 20, against scikit-learn's `LabelSpreading` and torch-geometric's
`LabelPropagation` and `CorrectAndSmooth` with k = 20 too, each at five shares of the neighbors (the last at one):
the best of those eleven at each level, chosen with the truth at hand. Share of right labels in %, means over
{draws} draws; seconds from features to labels, search included.

`paper` is the paper's setting and the default. `cautious` is for labels that are often wrong: rounds are
simultaneous (Table VI), features take 0.3 of their class's mean rather than 0.5, a node takes 0.95 of its neighbors'
opinion, and the last round makes the labels. Features drawn to wrong labels early confirm them. Where a fifth of the
labels or fewer are wrong a node's own label is worth more than that, and `paper` is the better one. Bold: at least
level with the best peer. One of the two is, to a tenth of a point, at every level but pair from 50 % on, where what
keeps the labels as they are breaks the fewest.

![Right labels over wrong ones for the two settings and the best peer](images/noise.png)

`python benchmarks/label_correction.py noise --data CamVid`
"""

FROZEN = """## A frozen teacher

A network trained for {warmup} steps on 46 frames, frozen; its labels of other frames before and after correction,
without any training of the graphs. Three seeds, each with its own network and labeled frames: mean and standard
deviation. Fixed / broken counts pixels; the worst class is the largest loss of one class's IoU in the mean over
seeds.

`whole` looks up labeled pixels ({{class}}`graphcorrect.AnchorBank`, keys from three encoder levels at 1/4, of the
image as it is and at twice its size), then runs the paper's two graphs, and takes the result to full resolution
along the image's edges ({{func}}`graphcorrect.guided_upsample`).

The gain comes from the anchors: the published graphs alone average the teacher's own opinions and change nothing,
and torch-geometric's propagation over the same neighbors (20 layers, share 0.8) smooths thin classes away. The graphs
then cost about half a point beside anchors and edges alone on frames of known drives, and break fewer labels. The
image's edges turn broken labels into fixed ones. On frames from other drives less is known of what is there, and
the gain is smaller.

![Gains, labels fixed and broken, and the change of every class, on test frames](images/frozen.png)

The teachers of this run were trained by an earlier revision of the trainer for {warmup} steps; a rerun trains its own,
for as long as the recipe `camvid_small` now says. `cautious features` are an earlier form of the preset: they take 0.3
of their class's mean, and the last round makes the labels.

`python benchmarks/label_correction.py frozen --data CamVid`
"""

ABLATION = """### What each part is worth

On unlabeled frames, against `whole`. `graphs of the paper` is the method as published, untrained, without anchors.
The first design of the anchors had keys at 1/8 (thin things have none there), strength 0.5 and eps 0.02.
"""

TRAINING = """## What better labels are worth to a student

Four methods from one warm-up a seed, same batches, {warmup} supervised steps and {steps} further ones; mIoU of the
student's plain head, without any correction, mean and standard deviation over {seeds} seeds; gains on the test images
are paired, seed by seed. The last columns are of the teacher's labels of unlabeled images at the end, before and after
correction (by graphs as they are built, where the method trains none).

![The student's mIoU of every method and seed](images/training.png)

`mllc` gains on self-training in every seed. It gains little on supervised training, and on held-out frames of known
drives it does not reach it: in so few steps self-training and FixMatch lose to plain supervised training, because a
teacher of this quality has thin classes that its labels lose further, and correction makes up for that loss and
somewhat more: signs fall from 23.6 to 7.4 in IoU under self-training, to 21.4 under `mllc`, and pavement and cars rise
by 6 and 4. The paper's gain over supervised training (8.10 at an eighth of the labels) was not seen here. What stands
in the way, we think, is the length of training: on the held-out frames of seed 0 supervised training alone went from
53.0 to 56.0 between 700 and 1,100 steps.

`mllc` is here the anchors, the graphs as they are built, and the corrected probabilities; its losses SLG and CLG are
off, for reasons that the trials below show.

`python benchmarks/label_correction.py training --data CamVid`
"""

TRIALS = """### What the settings of that run rest on

Trials on seed 0, scored on the 48 held-out frames, never on the test frames: so many supervised steps, then so many of
the method. Labels are the teacher's of 32 unlabeled frames at the end; `as built`: by graphs that are not trained.

Three things cost more than correction brings back in so few steps. Labels made by argmax: a thin class loses most of
its pixels to its neighbors, the student learns that, and its next labels have fewer still; under self-training
signs go from 25 to 12 in IoU and poles from 9 to 5. Harsh colors: signs and sky are known by theirs. And trained
graphs, which corrected worse than the plain propagation they began with; they too learn from labeled images, which
the network knows by heart, and that is our guess at the cause. Supervised training is far from its end at this point
and gains as much from further steps as any method does.
"""

DIGITS = """### On the embedded digits

The same four methods on 600 scenes of handwritten digits, 60 of them labeled, 100 to test on, a network from random
weights; {warmup} supervised steps and {steps} further ones, {seeds} seeds. No data is needed, and minutes.

`python benchmarks/label_correction.py training`
"""


def page() -> str:
    parts = [INTRODUCTION]
    sections = {"noise": noise, "frozen": frozen, "training": training, "trials": trials, "training_digits": training}
    for name, section in sections.items():
        path = RESULTS / f"label_correction_{name}.json"
        if path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
            device = record["device"]
            where = f"{device['cpu']}, torch {device['torch']}; {record['date']}, commit {record['commit']}."
            parts.append(section(record) + f"\n{where}\n")
    return "\n".join(parts)


def noise(record: dict[str, Any]) -> str:
    text = NOISE.format(draws=record["settings"]["draws"])
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in record["results"]:
        groups.setdefault((result["problem"], result["kind"]), []).append(result)
    rows = [
        "| features | noise | wrong | given | paper | cautious | best peer | | seconds: cautious | that peer |",
        "|---|---|--:|--:|--:|--:|--:|---|--:|--:|",
    ]
    for (problem, kind), results in groups.items():
        for result in results:
            sides = result["sides"]
            peers = {name: side for name, side in sides.items() if not name.startswith("refiner")}
            best = max(peers, key=lambda name: peers[name]["right"])
            paper, cautious = sides["refiner, paper"], sides["refiner, cautious"]
            shares = [result["before"], paper["right"], cautious["right"], peers[best]["right"]]
            shown = [f"{100 * share:.1f}" for share in shares]
            for ours in (1, 2):
                if shares[ours] >= shares[3]:
                    shown[ours] = f"**{shown[ours]}**"
            seconds = f"{cautious['seconds']:.2f} | {peers[best]['seconds']:.2f}"
            first = f"{problem} | {kind} | {result['rate']:.0%}"
            rows.append(f"| {first} | {' | '.join(shown)} | {best} | {seconds} |")
    return text + "\n" + "\n".join(rows) + "\n"


def frozen(record: dict[str, Any]) -> str:
    results, classes = record["results"], record["classes"]
    headline = ["whole", "anchors", "graphs of the paper", "edges alone"]
    parts = [FROZEN.format(warmup=record["settings"]["warmup"])]
    for split, title in (("test", "test frames"), ("unlabeled", "unlabeled frames"), ("held_out", "held-out frames")):
        found = [result for result in results if result["split"] == split]
        parts.append(f"On {found[0]['images']} {title}:\n\n{gains(found, headline, classes)}")
    judged = [result for result in results if result["split"] == "unlabeled"]
    parts.append(f"{ABLATION}\n{gains(judged, list(dict.fromkeys(r['side'] for r in judged)), classes)}")
    parts.append("### By class and by confidence, test frames\n\n" + by_class(results, classes))
    parts.append(by_confidence(results, record["bins"]))
    return "\n".join(parts)


def gains(results: list[dict[str, Any]], names: list[str], classes: list[str]) -> str:
    rows = [
        "| correction | before | after | gain | fixed / broken | worst class |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for name in names:
        found = [result for result in results if result["side"] == name]
        before, after = ([100 * result[key] for result in found] for key in ("before", "after"))
        difference = [late - early for early, late in zip(before, after, strict=True)]
        ratio = [result["fixed"] / max(1, result["broken"]) for result in found]
        changes = class_changes(found)
        worst = min(range(len(classes)), key=lambda place: changes[place])
        rows.append(
            f"| {name} | {spread(before)} | {spread(after)} | {spread(difference, '+')} | "
            f"{spread(ratio, digits=2)} | {classes[worst]} {changes[worst]:+.1f} |"
        )
    return "\n".join(rows) + "\n"


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


def training(record: dict[str, Any]) -> str:
    results, recipe = record["results"], record["settings"]["recipe"]
    schedule, is_digits = recipe["schedule"], recipe["data"]["layout"] == "digits"
    seeds = len({result["seed"] for result in results})
    text = DIGITS if is_digits else TRAINING
    text = text.format(warmup=schedule["warmup"], steps=schedule["steps"], seeds=seeds)
    scores = {"": "test"} | ({} if is_digits else {"held_out_": "held out"})
    rows = [
        f"| method | {' | '.join(scores.values())} | over supervised | over self_training | its labels | corrected |",
        "|---" + "|--:" * (len(scores) + 4) + "|",
    ]
    test = {(result["seed"], result["method"]): 100 * result["student_miou"] for result in results}
    for method in dict.fromkeys(result["method"] for result in results):
        found = [result for result in results if result["method"] == method]
        judged = [result["pseudo_labels"] for result in found]
        columns = [[100 * result[f"{prefix}student_miou"] for result in found] for prefix in scores]
        gains = [
            spread([test[result["seed"], method] - test[result["seed"], other] for result in found], "+")
            for other in ("supervised", "self_training")
        ]
        labels = [[100 * each[key]["miou"] for each in judged] for key in ("before", "corrected")]
        cells = [*map(spread, columns), *gains, *map(spread, labels)]
        rows.append(f"| {method} | {' | '.join(cells)} |")
    table = "\n".join(rows) + "\n"
    return f"{text}\n{table}" + ("" if is_digits else f"\nBy class, test frames:\n\n{by_method(results)}")


def by_method(results: list[dict[str, Any]]) -> str:
    """A class's IoU under each method, mean over seeds."""
    methods = list(dict.fromkeys(result["method"] for result in results))
    rows = [f"| class | {' | '.join(methods)} |", "|---" + "|--:" * len(methods) + "|"]
    for name in results[0]["student_iou"]:
        found = [
            [result["student_iou"][name] for result in results if result["method"] == method] for method in methods
        ]
        rows.append(f"| {name} | {' | '.join(f'{100 * statistics.mean(values):.1f}' for values in found)} |")
    return "\n".join(rows) + "\n"


def trials(record: dict[str, Any]) -> str:
    rows = [
        "| steps | method | setting | student | teacher | labels | corrected | as built |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    for result in record["results"]:
        labels = result["labels"]
        trained = "untrained" in labels
        shown = [labels["before"], labels["corrected"]] + ([labels["untrained"]] if trained else [])
        scores = [result["student"], result["teacher"], *(each["miou"] for each in shown)]
        cells = [f"{100 * score:.1f}" for score in scores] + ([] if trained else [""])
        rows.append(f"| {result['steps']} | {result['method']} | {result['trial']} | {' | '.join(cells)} |")
    return TRIALS + "\n" + "\n".join(rows) + "\n"


def spread(values: list[float], sign: str = "", digits: int = 1) -> str:
    """Mean, and deviation where there is more than one."""
    mean = f"{statistics.mean(values):{sign}.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean
