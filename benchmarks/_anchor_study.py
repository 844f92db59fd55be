"""What the fast settings of an anchor bank cost in quality, on the frozen study's teacher: gain, recall and seconds.

Every setting holds the same anchors as the exact one, or what is made of them; all correct the same answers.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from _frozen_study import CAPACITY, Answer, Score, answer, frozen_teacher, guided, pixels
from _records import save_record
from segmentation.datasets import with_masks
from tqdm import tqdm

from graphcorrect import AnchorBank, DualGraphRefiner

EXACT = "exact"
# By name: settings of the bank
IVF = {"key_dim": 128, "index": "ivf"}
SETTINGS: dict[str, dict[str, Any]] = {
    EXACT: {},
    "skip_certain": {"skip_certain": True},
    "key_dim=128": {"key_dim": 128},
    "key_dim=128, skip_certain": {"key_dim": 128, "skip_certain": True},
    "key_dim=128, ivf": IVF,
    "key_dim=128, ivf, skip_certain": IVF | {"skip_certain": True},
    "key_dim=128, ivf, num_probes=8": IVF | {"num_probes": 8},
    "key_dim=128, ivf, num_probes=32": IVF | {"num_probes": 32},
    "key_dim=128, ivf, num_probes=32, skip_certain": IVF | {"num_probes": 32, "skip_certain": True},
    "key_dim=64, ivf": IVF | {"key_dim": 64},
    "capacity 1000, key_dim=128, ivf": IVF | {"capacity_per_class": 1000},
    "capacity 1000, quota 60, key_dim=128, ivf": IVF | {"capacity_per_class": 1000, "quota_per_image": 60},
}


def main(args: argparse.Namespace) -> None:
    results, sizes = [], {}
    for seed in args.seeds:
        recipe, data, network, encoder = frozen_teacher(args, seed)
        classes = len(data.class_names)
        labeled = [answer(network, encoder, sample) for sample in tqdm(data.labeled, f"seed {seed}, labeled")]
        banks = filled_banks(labeled, classes)
        refiner = DualGraphRefiner.from_preset("paper", classes, recipe.network.feature_dim).eval()
        sizes = {"anchors": int(banks[EXACT].counts.sum()), "entries": banks[EXACT].feature_dim}
        for split, samples in {"held_out": with_masks(data.held_out), "test": data.test}.items():
            judged = samples[:4] if args.smoke else samples[:: args.every]
            found = {name: Found(classes) for name in banks}
            encoding = []
            for sample in tqdm(judged, f"seed {seed}, {split}"):
                said = answer(network, encoder, sample)
                start = time.process_time()
                encoder(said.image)
                encoding.append(time.process_time() - start)
                correct(said, banks, refiner, found)
            for name, side in found.items():
                result = {"seed": seed, "split": split, "side": name, "images": len(judged)}
                result |= side.score.result() | {"recall": float(np.mean(side.recall)) if side.recall else None}
                result |= {
                    "anchors": int(banks[name].counts.sum()),
                    "look_up": side.look_up,
                    "whole": side.whole,
                    "encoding": encoding,
                }
                results.append(result)
                print(f"seed {seed}, {split}, {name}: {side}", flush=True)
        content = {"classes": list(data.class_names), "results": results}
        settings = {"capacity": CAPACITY, "every": args.every, "settings": SETTINGS} | sizes
        save_record("label_correction_anchors", content, device=torch.device("cpu"), folder=args.out, **settings)


def filled_banks(labeled: list[Answer], classes: int) -> dict[str, AnchorBank]:
    """A bank of each setting that has seen all labeled images once; those with the same anchors share them."""
    banks: dict[str, AnchorBank] = {}
    for name, settings in SETTINGS.items():
        bank = AnchorBank(classes, labeled[0].keys.shape[1], **{"capacity_per_class": CAPACITY} | settings)
        if name == EXACT or "capacity_per_class" in settings:
            for said in labeled:
                bank.update(said.keys, said.labels)
        else:
            bank.load_state_dict(banks[EXACT].state_dict(), assign=True)
        banks[name] = bank
    return banks


class Found:
    """What one setting reached: scores, the share of the nearest anchors found, and seconds a frame.

    Seconds are those of all threads: of one thread, they are what one core takes, whatever else the machine does.
    """

    def __init__(self, classes: int):
        self.score = Score(classes)
        self.recall: list[float] = []
        self.look_up: list[float] = []
        self.whole: list[float] = []

    def __str__(self) -> str:
        seconds = f"{np.median(self.look_up):.3f} CPU s looked up, {np.median(self.whole):.3f} in all"
        recall = f"recall {np.mean(self.recall):.3f}, " if self.recall else ""
        return f"{self.score}, {recall}{seconds}"


class Timed(torch.nn.Module):
    """A bank whose look-ups are timed."""

    def __init__(self, bank: AnchorBank):
        super().__init__()
        self.bank, self.features, self.seconds = bank, bank.features, 0.0
        self.check_keys = bank.check_keys

    def correct(self, probabilities: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        start = time.process_time()
        corrected = self.bank.correct(probabilities, keys)
        self.seconds = time.process_time() - start
        return corrected


@torch.no_grad()
def correct(said: Answer, banks: dict[str, AnchorBank], refiner: DualGraphRefiner, found: dict[str, Found]) -> None:
    """Corrects one answer by all settings in turn."""
    before, logits = pixels(said.probabilities, said), said.probabilities.clamp_min(1e-8).log()
    nearest = {}
    rows = said.keys.flatten(2)[0].mT
    some = rows[:: max(1, len(rows) // 200)]
    for name, bank in banks.items():
        timed = Timed(bank)
        nearest[name] = bank._packed().nearest(some, 20, backend="auto", num_probes=bank.num_probes)[1]  # packs, too
        start = time.process_time()
        after = guided(refiner(said.embedding, logits, anchors=timed, anchor_features=said.keys).soft_labels, said)
        found[name].whole.append(time.process_time() - start)
        found[name].look_up.append(timed.seconds)
        found[name].score.add(before, after.argmax(1), said.labels)
        if bank.features.data_ptr() == banks[EXACT].features.data_ptr():  # the same anchors
            is_found = (nearest[name][:, :, None] == nearest[EXACT][:, None]).any(1)
            found[name].recall.append(float(is_found.float().mean()))
