"""The reference trainer, method against method, from one warm-up a seed: what better labels are worth to a student."""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch
from _frozen_study import study_recipe
from _records import save_record
from segmentation import engine, report
from segmentation.layouts import read_list
from segmentation.recipe import Recipe, as_dict

TRUE_LABELS = "true_labels"  # no method: what the best correction that there could be would be worth


def main(args: argparse.Namespace) -> None:
    results = []
    for seed in args.seeds:
        recipe, folder = study_recipe(args, seed), args.runs / f"seed{seed}-training"
        methods = args.methods or [*recipe.methods, TRUE_LABELS]
        recipe.set("methods", [method for method in methods if method != TRUE_LABELS], "--methods")
        warm = args.runs / f"seed{seed}" / "warmup.pt"
        if warm.is_file():  # the frozen study's teacher
            recipe.schedule.start = str(warm)
        found = trained(recipe, folder)
        if TRUE_LABELS in methods:
            found[TRUE_LABELS] = with_true_labels(recipe, folder)
        for method, scores in found.items():
            log = folder / TRUE_LABELS if method == TRUE_LABELS else folder
            results.append({"seed": seed, "method": method} | scores | {"history": history(log / "log.jsonl", method)})
        # After each seed: a study that is stopped keeps what it has
        name = "label_correction_training" + (f"_{args.recipe}" if args.recipe else "" if args.data else "_digits")
        content = {"results": results}
        save_record(name, content, device=torch.device("cpu"), folder=args.out, recipe=as_dict(recipe))


def history(log: Path, method: str) -> list[dict[str, float]]:
    """Step and the student's scores at each test of a method on its way."""
    name = "supervised" if method == TRUE_LABELS else method
    rows = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    tests = [row for row in rows if row["method"] == name and "student_miou" in row]
    keys = ("step", *(f"{split}student_{score}" for split in ("", "held_out_") for score in ("miou", "dice")))
    return [{key: row[key] for key in keys if key in row} for row in tests]


def trained(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Scores by method of the run in a folder: of one that is done as they are, else trained from where it stopped."""
    results = folder / "results.json"
    is_begun = (folder / "resume.pt").is_file()
    if not is_begun and set(recipe.methods) <= report.methods_done(results):
        found = json.loads(results.read_text(encoding="utf-8"))["methods"]
        return {method: found[method] for method in recipe.methods}
    return engine.run(recipe, folder, resume=is_begun)


def with_true_labels(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Scores of supervised training, from the same warm-up, that is given the true labels of the unlabeled images too.

    As many images a step as all methods see. The trainer wants an unlabeled image; it gets one that nobody reads.
    """
    bound, out = copy.deepcopy(recipe), folder / TRUE_LABELS
    labeled, unlabeled = (read_list(folder / f"{name}.txt") for name in ("labeled", "unlabeled"))
    out.mkdir(exist_ok=True)
    (out / "all.txt").write_text("\n".join(sorted({*labeled, *unlabeled[1:]})))
    (out / "one.txt").write_text(unlabeled[0])
    bound.methods, bound.schedule.start = ("supervised",), str(folder / "warmup.pt")
    bound.data.labeled, bound.data.unlabeled, bound.data.held_out = str(out / "all.txt"), str(out / "one.txt"), 0
    bound.schedule.labeled_batch += bound.schedule.unlabeled_batch
    scores = trained(bound, out)["supervised"]
    del scores["pseudo_labels"]  # of that one image
    return scores
