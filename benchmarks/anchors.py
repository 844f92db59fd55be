"""What an anchor bank costs: an update, and a look-up, exact and approximate.

    python benchmarks/anchors.py            # 63,000 to 1,000,000 anchors, 1,024 to 8,192 queries, 64 to 456 entries
    python benchmarks/anchors.py --smoke    # the smallest sizes, for CI

An update is timed beside one that writes the whole bank anew, and both must keep the same anchors. A look-up is timed
beside the product of float32 rows, packed beforehand, and `topk`, which finds the same anchors. Approximate look-ups
have their recall beside them: the share of the true k nearest anchors that they found. Keys are random, with as many
directions as backbones' features have that matter; what the options cost in quality on images is in
`label_correction.py anchors`. Building what a look-up needs after an update is timed as "pack".
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _harness import Case, human_bytes, peak_memory, save, time_in_turn
from _records import Smoke
from torch import Tensor

from graphcorrect import AnchorBank
from graphcorrect.banks import _reservoir
from graphcorrect.ops.kernels import faiss

NUM_CLASSES, NEIGHBORS, NEW_NODES = 21, 20, 1024
# Anchors, queries, entries of a key
SIZES = [
    (63_000, 1024, 64),
    (63_000, 1024, 256),
    (63_000, 8192, 256),
    (110_000, 2700, 456),
    (252_000, 1024, 256),
    (1_000_000, 1024, 64),
    (1_000_000, 1024, 256),
]
MEASURED_ENTRIES = 252_000 * 256  # up to which memory is measured, which fills the bank once more for each side
SMOKE_SIZES = [(630, 64, 16), (2100, 128, 32)]
OURS, EXACT = "AnchorBank.update", "exact"
REWRITTEN, PRODUCT = "bank written anew", "product and topk"


def features(count: int, dim: int, seed: int, device: torch.device) -> Tensor:
    """Rows around a curved sheet of 24 directions, as features of images are."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.Generator().manual_seed(0)
    spread, out = torch.randn(24, 4 * 24, generator=directions), torch.randn(4 * 24, dim, generator=directions)
    rows = (torch.randn(count, 24, generator=generator) @ spread).relu() @ out
    rows += 0.1 * rows.std() * torch.randn(count, dim, generator=generator)
    return rows.to(device)


def filled(anchors: int, dim: int, device: torch.device, **settings: Any) -> AnchorBank:
    """A bank with all slots filled but those of one class, so that packing has to copy."""
    capacity = anchors // NUM_CLASSES
    bank = AnchorBank(NUM_CLASSES, dim, capacity_per_class=capacity, num_neighbors=NEIGHBORS, **settings).to(device)
    for label in range(NUM_CLASSES):
        count = capacity - (label == 0)
        bank.update(features(count, dim, label + 1, device), torch.full((count,), label, device=device))
    return bank


def written_anew(bank: AnchorBank, rows: Tensor, labels: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
    """The update of graphcorrect 0.1, without its checks: all rows of the bank are read, sorted and written."""
    rows = torch.nn.functional.normalize(rows, dim=1)
    num_slots = bank.capacity_per_class

    def run() -> tuple[Tensor, Tensor]:
        draws = _reservoir.draw(len(rows), bank.seed, bank.num_updates)
        held = bank.priority.reshape(-1) > -torch.inf
        of_slot = torch.arange(bank.num_classes, device=rows.device).repeat_interleave(num_slots)
        every = torch.cat([bank.features.reshape(-1, bank.feature_dim)[held], rows])
        label = torch.cat([of_slot[held], labels])
        priority = torch.cat([bank.priority.reshape(-1)[held], _reservoir.priority_of(draws)])
        order = priority.argsort(descending=True, stable=True)
        order = order[label[order].argsort(stable=True)]
        place = _reservoir.place_in_group(label[order])
        kept = order[place < num_slots]
        slot = (label[order] * num_slots + place)[place < num_slots]
        new_features, new_priority = torch.zeros_like(bank.features), torch.full_like(bank.priority, -torch.inf)
        new_features.view(-1, bank.feature_dim).index_copy_(0, slot, every[kept])
        new_priority.view(-1).index_copy_(0, slot, priority[kept])
        return new_features, new_priority

    return run


def measure_update(anchors: int, dim: int, rounds: int, device: torch.device) -> Case:
    case = Case({"what": "update", "anchors": anchors, "nodes": NEW_NODES, "feature_dim": dim})
    bank = filled(anchors, dim, device, validate_args=False)
    rows = features(NEW_NODES, dim, 999, device)
    labels = torch.arange(NEW_NODES, device=device) % NUM_CLASSES
    expected, priority = written_anew(bank, rows, labels)()
    bank.update(rows, labels)
    order = bank.priority.sort(descending=True, stable=True)
    torch.testing.assert_close(order.values, priority)
    same = bank.features.gather(1, order.indices[..., None].expand_as(bank.features))
    case.agreement = {OURS: float((same - expected).abs().max())}
    assert case.agreement[OURS] < 1e-5
    runs = {OURS: lambda: bank.update(rows, labels), REWRITTEN: written_anew(bank, rows, labels)}
    case.seconds = time_in_turn(runs, rounds=rounds, device=device)
    return case


def options(anchors: int, dim: int) -> dict[str, dict[str, Any]]:
    """The settings of an `AnchorBank` that are compared, by name."""
    found: dict[str, dict[str, Any]] = {EXACT: {}}
    if dim > 128:
        found["key_dim=128"] = {"key_dim": 128}
    if faiss.is_installed():
        found["ivf"] = {"index": "ivf"}
        if dim > 128:
            found["key_dim=128, ivf"] = {"key_dim": 128, "index": "ivf"}
    return found


def build(name: str, anchors: int, queries: int, dim: int, device: torch.device) -> Callable[[], Any]:
    """A look-up of the nearest anchors; the first call packs."""
    asked = features(queries, dim, 1000, device)
    if name == PRODUCT:
        keys = filled(anchors, dim, device)._packed().keys.mT.contiguous()
        return lambda: (torch.nn.functional.normalize(asked, dim=1) @ keys).topk(NEIGHBORS)
    bank = filled(anchors, dim, device, **options(anchors, dim)[name])
    return lambda: nearest(bank, asked)


def nearest(bank: AnchorBank, queries: Tensor) -> tuple[Tensor, Tensor]:
    return bank._packed().nearest(queries, NEIGHBORS, backend=bank.backend, num_probes=bank.num_probes)


def measure_look_up(anchors: int, queries: int, dim: int, rounds: int, device: torch.device) -> Case:
    sizes = {"anchors": anchors, "queries": queries, "feature_dim": dim, "num_neighbors": NEIGHBORS}
    case = Case({"what": "look-up"} | sizes)
    asked = features(queries, dim, 1000, device)
    full = filled(anchors, dim, device)
    rows, keys = torch.nn.functional.normalize(asked, dim=1), full._packed().keys
    limits = (rows @ keys.mT).topk(NEIGHBORS).values[:, -1:] - 1e-6  # float32 cannot tell these apart
    banks = {}
    for name, settings in options(anchors, dim).items():
        banks[name] = AnchorBank(
            NUM_CLASSES, dim, capacity_per_class=full.capacity_per_class, num_neighbors=NEIGHBORS, **settings
        ).to(device)
        banks[name].load_state_dict(full.state_dict(), assign=True)  # one copy for all
        index = nearest(banks[name], asked)[1]
        similarity = torch.einsum("nd,nkd->nk", rows, keys[index])
        case.agreement[name] = float((similarity >= limits).float().mean())
    assert case.agreement[EXACT] > 0.9999
    columns = keys.mT
    runs: dict[str, Callable[[], Any]] = {name: lambda bank=bank: bank(asked) for name, bank in banks.items()}
    runs[PRODUCT] = lambda: full._packed().votes(
        *(torch.nn.functional.normalize(asked, dim=1) @ columns).topk(NEIGHBORS), NUM_CLASSES, full.temperature
    )
    case.seconds = time_in_turn(runs, rounds=rounds, device=device)
    packs = {f"{name}, pack": lambda bank=bank: repack(bank) for name, bank in banks.items()}
    case.seconds |= time_in_turn(packs, rounds=min(3, rounds), device=device)
    return case


def repack(bank: AnchorBank) -> None:
    bank._cache = None
    bank._packed()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--most", type=int, default=1_000_000, help="largest number of anchors")
    parser.add_argument("--out", type=Path, help="folder of the JSON; default: that of the device")
    parser.add_argument("--smoke", action=Smoke)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device, rounds = torch.device(args.device), 3 if args.smoke else args.rounds
    sizes = [size for size in (SMOKE_SIZES if args.smoke else SIZES) if size[0] <= args.most]
    cases = []
    for anchors, dim in dict.fromkeys((anchors, dim) for anchors, _, dim in sizes):
        cases.append(measure_update(anchors, dim, rounds, device))
        report(cases[-1], REWRITTEN)
    for size in sizes:
        case = measure_look_up(*size, rounds, device)
        if not args.smoke and size[0] * size[2] <= MEASURED_ENTRIES:
            names = (*options(size[0], size[2]), PRODUCT)
            case.peak_bytes = {name: peak_memory(build, name, *size, device, device=device) for name in names}
        cases.append(case)
        report(case, PRODUCT)
    settings = {"dtype": "float32", "seed": 0, "rounds": rounds, "num_classes": NUM_CLASSES}
    print(f"wrote {save('anchors', cases, device=device, folder=args.out, **settings)}")


def report(case: Case, reference: str) -> None:
    print(", ".join(f"{value} {key}" for key, value in case.sizes.items()), flush=True)
    for name in case.seconds:
        line = f"  {name:<24}{1e3 * case.median_seconds(name):>12,.2f} ms"
        if name in case.agreement and case.sizes["what"] == "look-up":
            line += f"   recall {case.agreement[name]:.4f}"
        if name != reference and not name.endswith("pack"):
            line += "   {:.1f} times faster ({:.1f}..{:.1f}) than ".format(*case.ratio(reference, name)) + reference
        if name in case.peak_bytes:
            line += f"   {human_bytes(case.peak_bytes[name])}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
