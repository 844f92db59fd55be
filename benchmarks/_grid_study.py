"""Graphs of few nodes and networks that answer coarsely: pixels looked up on the grid of their keys, or on that one.

A large image has more pixels than graphs have nodes. CamVid's images are small, so the nodes are cut down instead: 170
cells of 16 x 16 pixels stand for an image of 1,180 x 880 and 4,096 nodes.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from _frozen_study import Answer, Score, answer, filled_bank, frozen_teacher
from _records import save_record
from segmentation.datasets import with_masks
from torch import Tensor
from tqdm import tqdm

from graphcorrect import AnchorBank, DualGraphRefiner, guided_upsample
from graphcorrect.cells import full_size
from graphcorrect.nodes import grid_size, pool_maps, resize_maps

NODES = (4096, 680, 170)
STRIDE = 16  # of the coarse answer
COARSE = f"scores at 1/{STRIDE}"
AVERAGED = ", keys averaged"


def main(args: argparse.Namespace) -> None:
    results = []
    for seed in args.seeds:
        recipe, data, network, encoder = frozen_teacher(args, seed)
        classes = len(data.class_names)
        labeled = [answer(network, encoder, sample) for sample in tqdm(data.labeled, f"seed {seed}, labeled")]
        bank = filled_bank(labeled, classes, lambda said: said.keys)
        refiners = {
            nodes: DualGraphRefiner(classes, recipe.network.feature_dim, max_nodes=nodes).eval() for nodes in NODES
        }
        for split, samples in {"held_out": with_masks(data.held_out), "test": data.test}.items():
            judged = samples[:4] if args.smoke else samples[:: args.every]
            scores: dict[str, Score] = {}
            for sample in tqdm(judged, f"seed {seed}, {split}"):
                said = answer(network, encoder, sample)
                height, width = said.image.shape[-2:]
                for name, (before, after) in corrected(said, bank, refiners).items():
                    labels = guided_upsample(full_size(after, height, width), said.image).argmax(1)
                    scores.setdefault(name, Score(classes)).add(full_size(before, height, width), labels, said.labels)
            for name, score in scores.items():
                results.append({"seed": seed, "split": split, "side": name, "images": len(judged)} | score.result())
                print(f"seed {seed}, {split}, {name}: {score}", flush=True)
    content = {"classes": list(data.class_names), "results": results}
    settings: dict[str, Any] = {"every": args.every, "nodes": NODES, "stride": STRIDE}
    save_record("label_correction_grids", content, device=torch.device("cpu"), folder=args.out, **settings)


@torch.no_grad()
def corrected(
    said: Answer, bank: AnchorBank, refiners: dict[int, DualGraphRefiner]
) -> dict[str, tuple[Tensor, Tensor]]:
    """By name, probabilities (1, C, h, w) before and after."""
    grid = (said.keys.shape[-2], said.keys.shape[-1])
    found = {}
    for nodes, refiner in refiners.items():
        averaged = pool_maps(said.keys, grid_size(*grid, nodes))
        for name, keys in {"": said.keys, AVERAGED: averaged}.items():
            if name and averaged.shape == said.keys.shape:
                continue
            logits = said.probabilities.clamp_min(1e-8).log()
            soft = refiner(said.embedding, logits, anchors=bank, anchor_features=keys).soft_labels
            found[f"{nodes} nodes{name}"] = said.probabilities, soft
    size = (-(-said.image.shape[-2] // STRIDE), -(-said.image.shape[-1] // STRIDE))
    coarse, embedding = pool_maps(said.probabilities, size), pool_maps(said.embedding, size)
    logits, refiner = coarse.clamp_min(1e-8).log(), refiners[NODES[0]]
    for name, scores in {COARSE: resize_maps(logits, grid, None), COARSE + AVERAGED: logits}.items():
        found[name] = coarse, refiner(embedding, scores, anchors=bank, anchor_features=said.keys).soft_labels
    return found
