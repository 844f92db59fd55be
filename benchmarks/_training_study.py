"""The reference trainer, method against method, from one warm-up a seed: what better labels are worth to a student."""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch
from _frozen_study import study_recipe, warm_up
from _records import save_record
from segmentation import engine, report
from segmentation.layouts import read_list
from segmentation.recipe import Recipe, as_dict

TRUE_LABELS = "true_labels"  # no method: what the best correction that there could be would be worth


def trained_as(method: str) -> str:
    """What the trainer calls a method of the studies."""
    return "supervised" if method == TRUE_LABELS else method


def main(args: argparse.Namespace) -> None:
    results = []
    for seed in args.seeds:
        recipe, folder = study_recipe(args, seed), args.runs / f"seed{seed}"
        methods = args.methods or [*recipe.methods, TRUE_LABELS]
        recipe.set("methods", [method for method in methods if method != TRUE_LABELS], "--methods")
        recipe.schedule.start = str(warm_up(recipe, folder))
        for method in methods:
            scores = trained(recipe, method, folder / method)
            scores["history"] = history(folder / method / "log.jsonl", method)
            results.append({"seed": seed, "method": method} | scores)
        # After each seed: a study that is stopped keeps what it has
        name = "label_correction_training" + (f"_{args.recipe}" if args.recipe else "" if args.data else "_digits")
        content = {"results": results}
        save_record(name, content, device=torch.device("cpu"), folder=args.out, recipe=as_dict(recipe))


def history(log: Path, method: str) -> list[dict[str, float]]:
    """Step and the student's scores at each test of a method on its way."""
    name = trained_as(method)
    rows = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    tests = [row for row in rows if row["method"] == name and "student_miou" in row]
    keys = ("step", *(f"{split}student_{score}" for split in ("", "held_out_") for score in ("miou", "dice")))
    return [{key: row[key] for key in keys if key in row} for row in tests]


def trained(recipe: Recipe, method: str, out: Path) -> dict[str, Any]:
    """Scores of a method, in a folder of its own: of one that is done as they are, else trained from where it stopped.

    So methods can be trained by several processes, and added to a study later.
    """
    name = trained_as(method)
    is_begun = (out / "resume.pt").is_file()
    if not is_begun and name in report.methods_done(out / "results.json"):
        found = json.loads((out / "results.json").read_text(encoding="utf-8"))["methods"]
    else:
        if method == TRUE_LABELS:
            recipe = give_true_labels(recipe, out)
        found = engine.run(recipe, out, resume=is_begun, methods=(name,))
    scores = found[name]
    if method == TRUE_LABELS:
        del scores["pseudo_labels"]  # of the one image that is left
    return scores


def give_true_labels(recipe: Recipe, out: Path) -> Recipe:
    """A recipe whose supervised training is given the true labels of the unlabeled images too.

    As many images a step as all methods see. The trainer wants an unlabeled image; it gets one that nobody reads. Which
    image is labeled the warm-up has drawn, whose folder is the one above.
    """
    recipe = copy.deepcopy(recipe)
    data, schedule = recipe.data, recipe.schedule
    labeled, unlabeled = (read_list(out.parent / f"{name}.txt") for name in ("labeled", "unlabeled"))
    out.mkdir(exist_ok=True)
    (out / "all.txt").write_text("\n".join(sorted({*labeled, *unlabeled[1:]})))
    (out / "one.txt").write_text(unlabeled[0])
    data.labeled, data.unlabeled, data.held_out = str(out / "all.txt"), str(out / "one.txt"), 0
    schedule.labeled_batch += schedule.unlabeled_batch
    return recipe
