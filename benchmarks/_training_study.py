"""The reference trainer, method against method, from one warm-up a seed: what better labels are worth to a student."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from _frozen_study import study_recipe
from _harness import save_record
from segmentation import engine
from segmentation.recipe import as_dict


def main(args: argparse.Namespace) -> None:
    results = []
    for seed in args.seeds:
        recipe, folder = study_recipe(args, seed), args.runs / f"seed{seed}-training"
        recipe.methods = tuple(args.methods)
        warm = args.runs / f"seed{seed}" / "warmup.pt"
        if warm.is_file():  # the frozen study's teacher
            recipe.schedule.start = str(warm)
        found = engine.run(recipe, folder, resume=Path(folder / "resume.pt").is_file())
        results += [{"seed": seed, "method": method} | scores for method, scores in found.items()]
    save_record(
        "label_correction_training" + ("" if args.data else "_digits"),
        {"results": results},
        device=torch.device("cpu"),
        folder=args.out,
        recipe=as_dict(recipe),
    )
