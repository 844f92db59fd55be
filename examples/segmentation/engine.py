"""The loop: one supervised warm-up, then every method from that state, on the same batches, for as many steps."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from tqdm import tqdm

from graphcorrect import AnchorBank, DualGraphRefiner, EMATeacher, LabelCorrectionLoss, PrototypeBank
from segmentation import evaluation, figures, report
from segmentation.datasets import (
    IGNORE_INDEX,
    SegmentationData,
    SegmentationImages,
    check,
    open_data,
    usual_size,
    with_masks,
)
from segmentation.methods import Banks, SegmentationModel, pseudo_label, remember_labeled, training_loss
from segmentation.networks import SegmentationNetwork
from segmentation.transforms import StrongView, WeakView, cutmix

ANCHOR_DECAY = 0.99  # the bank follows a network that changes: an anchor of 100 steps ago weighs a third


@dataclass
class Config:
    """Everything a run depends on; `train_voc.py` says what each means and fills it from the command line."""

    data: str | None
    labeled: str | None
    held_out: int
    classes: str | None
    methods: tuple[str, ...]
    out: Path
    seed: int
    device: str
    workers: int
    warmup: int
    start: Path | None
    steps: int
    batch_size: int
    crop: tuple[int, int] | None
    scale: tuple[float, float]
    flip: bool
    blur: float
    backbone: str
    weights: str
    feature_dim: int
    decoder_channels: int
    encoder_depth: int
    atrous_rates: tuple[int, int, int]
    learning_rate: float
    weight_decay: float
    head_factor: float
    optimizer: str
    ema: float
    confidence: float
    rounds: int
    neighbors: int
    max_nodes: int
    slg_weight: float
    anchors: bool
    anchor_capacity: int
    evaluations: int
    judged: int
    log_every: int
    scenes: tuple[int, int] | None = None  # of the embedded data: train, val


@dataclass
class State:
    """What a run changes, and so what a checkpoint holds."""

    model: SegmentationModel
    teacher: EMATeacher
    banks: Banks
    optimizer: torch.optim.Optimizer
    step: int = 0

    def state_dict(self) -> dict:
        names = ("model", "teacher", "banks", "optimizer")
        return {"step": self.step, **{name: getattr(self, name).state_dict() for name in names}}

    def load_state_dict(self, state: dict) -> None:
        self.step = state["step"]
        for name in ("model", "teacher", "banks", "optimizer"):
            getattr(self, name).load_state_dict(state[name])


def run(config: Config) -> dict[str, dict]:
    """Run every method of `config` and return what was measured, by method; files go to `config.out`."""
    begin = time.perf_counter()
    is_main = join_processes(config)
    if not is_main:
        torch.distributed.barrier()  # the main process writes the embedded scenes and the drawn split
    data = open_data(
        config.data, config.labeled, config.seed, config.out, config.classes, config.scenes, config.held_out
    )
    if is_main:
        check(data)
        if evaluation.distributed():
            torch.distributed.barrier()
    config.crop = config.crop or usual_size(data.labeled)
    device = torch.device(config.device)
    log = report.Log(config.out / "log.jsonl" if is_main else None)

    torch.manual_seed(config.seed)  # the same weights on every rank
    warm = build(config, len(data.class_names), device)
    if config.start is None:
        train("warm-up", warm, config, data, config.warmup, log, is_main)
    else:
        warm.load_state_dict(torch.load(config.start, map_location=device, weights_only=True))
    if is_main:
        report.save_atomically(warm.state_dict(), config.out / "warmup.pt")

    results = {}
    for method in config.methods:
        state = copy.deepcopy(warm)  # weights, teacher, banks, momentum: as if the warm-up had been its own
        scores = train(method, state, config, data, config.warmup + config.steps, log, is_main)
        results[method] = scores | measure(method, state, config, data, is_main)
        if is_main:  # after each method: a run that is stopped keeps what it has
            settings = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(config).items()}
            content = {"config": settings, "seconds": time.perf_counter() - begin, "methods": results}
            report.save_results(content, config.out / "results.json")
    if is_main:
        figures.draw_curves(config.out / "log.jsonl", config.out / "curves.png", config.warmup)
        kinds = f"{len(data.labeled)} labeled, {len(data.unlabeled)} unlabeled, {len(data.test)} test images"
        report.print_table(results, f"{kinds}; {config.warmup} + {config.steps} steps; seed {config.seed}")
    return results


def build(config: Config, num_classes: int, device: torch.device) -> State:
    """Network, refiner, teacher, banks and optimizer, all at their beginning."""
    network = SegmentationNetwork(
        num_classes,
        config.feature_dim,
        backbone=config.backbone,
        weights=config.weights,
        decoder_channels=config.decoder_channels,
        encoder_depth=config.encoder_depth,
        atrous_rates=config.atrous_rates,
    )
    # Channels last: the layout of fast convolutions, on CPUs and on GPUs alike.
    network = network.to(memory_format=torch.channels_last)
    model = SegmentationModel(network, new_refiner(config, num_classes)).to(device)
    if evaluation.distributed() and device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    anchors = new_anchors(config, num_classes, network.middle_dim)
    prototypes = PrototypeBank(num_classes, config.feature_dim, num_rounds=config.rounds)
    groups = network.parameter_groups(config.learning_rate, config.head_factor)
    groups.append({"params": list(model.refiner.parameters()), "lr": config.learning_rate * config.head_factor})
    for group in groups:
        group["peak"] = group["lr"]
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=config.weight_decay)
    else:
        optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    teacher = EMATeacher(model, momentum=config.ema)
    return State(model, teacher, Banks(prototypes, anchors).to(device), optimizer)


def new_refiner(config: Config, num_classes: int) -> DualGraphRefiner:
    """The refiner of the paper, at its beginning: it corrects already, by plain propagation."""
    return DualGraphRefiner.from_preset(
        "paper",
        num_classes=num_classes,
        feature_dim=config.feature_dim,
        num_rounds=config.rounds,
        num_neighbors=config.neighbors,
        max_nodes=config.max_nodes,
    )


def train(
    method: str, state: State, config: Config, data: SegmentationData, last: int, log: report.Log, is_main: bool
) -> dict:
    """Train `state` in place until step `last`; returns the last test scores and the seconds of training alone."""
    device, total = torch.device(config.device), config.warmup + config.steps
    loss_method = "supervised" if method == "warm-up" else method
    rank = evaluation.rank_and_ranks()[0]
    torch.manual_seed(config.seed + 1000 * rank + 1 + state.step)  # each rank draws views of its own
    student: nn.Module = state.model.train()
    if evaluation.distributed():  # the embedding and the refiner have no gradient in some methods
        student = nn.parallel.DistributedDataParallel(state.model, find_unused_parameters=True)
    strong_view = StrongView((0.1, config.blur))
    correction = LabelCorrectionLoss(slg_weight=config.slg_weight)
    steps = last - state.step
    loaders = zip(batches(data, config, steps), batches(data, config, steps, hidden=True), strict=True)
    stops = {last - steps * part // config.evaluations for part in range(config.evaluations)}
    best, scores, seconds, started = -1.0, {}, 0.0, time.perf_counter()

    if method == "mllc":
        state.banks.anchors = fresh_anchors(state, config, data, device)
    bar = tqdm(loaders, total=steps, desc=f"{method:>13}", disable=not is_main, mininterval=1.0)
    for (images, labels), (weak, blank) in bar:
        images, labels, weak, blank = (tensor.to(device, non_blocking=True) for tensor in (images, labels, weak, blank))
        images, weak = images.float() / 255, weak.float() / 255
        unlabeled, extra = None, {}
        if loss_method != "supervised":
            if method == "mllc" and state.banks.anchors is not None:
                remember_labeled(state.teacher, images, labels, state.banks.anchors)
            pseudo = pseudo_label(method, state.teacher, weak, blank != IGNORE_INDEX, state.banks)
            unlabeled = cutmix(strong_view(weak), pseudo.labels, pseudo.confidence)
            extra = {"confidence": pseudo.confidence.mean(), "changed": pseudo.changed}

        losses = training_loss(
            loss_method,
            student,
            (images, labels),
            unlabeled,
            state.banks,
            correction=correction,
            confidence=config.confidence,
        )
        for group in state.optimizer.param_groups:  # Polynomial decay over warm-up and method together
            group["lr"] = group["peak"] * (1 - state.step / total) ** 0.9
        state.optimizer.zero_grad()
        sum(losses.values()).backward()
        state.optimizer.step()
        # A young teacher must forget the random weights it began with: a plain mean first, a running one later.
        state.teacher.momentum = min(config.ema, 1 - 1 / (state.step + 1))
        state.teacher.update(state.model)
        state.step += 1

        if state.step % config.log_every == 0 or state.step == last:
            parts = {name: round(float(value.detach()), 5) for name, value in (losses | extra).items()}
            log.write(method=method, step=state.step, lr=state.optimizer.param_groups[0]["lr"], **parts)
            bar.set_postfix({name: f"{value:.3f}" for name, value in parts.items()}, refresh=False)
        if state.step in stops and method != "warm-up":
            seconds += time.perf_counter() - started
            scores = test_scores(state, data, device)
            log.write(method=method, step=state.step, **scores)
            if is_main:
                names = ["last", "best"] if scores["teacher_miou"] > best else ["last"]
                for name in names:
                    report.save_atomically(state.state_dict(), config.out / method / f"{name}.pt")
            best, started = max(best, scores["teacher_miou"]), time.perf_counter()
    return scores | {"seconds": seconds}


def measure(method: str, state: State, config: Config, data: SegmentationData, is_main: bool) -> dict:
    """The teacher's pseudo-labels on unlabeled training images, before and after correction, and a picture of some."""
    device, num_classes, trained = torch.device(config.device), len(data.class_names), method == "mllc"
    untrained = evaluation.on_its_own(new_refiner(config, num_classes).to(device))
    anchors = fresh_anchors(state, config, data, device)  # for every method: the same question to every teacher
    refiner = evaluation.on_its_own(state.teacher.module.refiner) if trained else untrained
    correctors = {"corrected": (refiner, anchors), "without_anchors": (refiner, None)}
    correctors |= {"untrained": (untrained, anchors), "untrained_without_anchors": (untrained, None)} if trained else {}
    hidden = with_masks(data.unlabeled)[: config.judged]
    judged = evaluation.judge_pseudo_labels(state.teacher.module, hidden, correctors, num_classes, device)
    if is_main:
        examples = []
        shown = hidden[:: max(1, len(hidden) // 6)][:6]  # evenly spread: neighbors in a list may be frames of a video
        for images, truth in evaluation.batches(shown, device, limit=1):
            output, _ = state.teacher(images)
            size = truth.shape[-2:]
            before = evaluation.plain_labels(output, size)
            after = evaluation.corrected(refiner, output, anchors, size)
            labels = (each[0].cpu() for each in (truth, before, after))
            examples.append(figures.CorrectionExample((images[0] * 255).byte().cpu(), *labels))
        note = "trained refiner" if trained else "untrained refiner"
        figures.draw_corrections(examples, config.out / f"pseudo_labels_{method}.png", f"{method}, {note}")
    return {"refiner_trained": trained, "pseudo_labels": judged}


def new_anchors(config: Config, num_classes: int, key_dim: int) -> AnchorBank | None:
    """An empty bank; None without anchors."""
    if not config.anchors:
        return None
    return AnchorBank(num_classes, key_dim, capacity_per_class=config.anchor_capacity, decay=ANCHOR_DECAY)


def fresh_anchors(state: State, config: Config, data: SegmentationData, device: torch.device) -> AnchorBank | None:
    """A bank filled with the labeled images as they are, seen by the teacher as it is now; None without anchors."""
    key_dim, ranks = state.model.network.middle_dim, evaluation.rank_and_ranks()[1]
    anchors = new_anchors(config, len(data.class_names), key_dim)
    if anchors is None:
        return None
    anchors.to(device)
    own_share = evaluation.batches(data.labeled, device, limit=1)
    for _ in range(-(-len(data.labeled) // ranks)):
        batch = next(own_share, None)
        if batch is not None:
            remember_labeled(state.teacher, *batch, anchors)
        else:  # every rank must take part in every update, also the one with an image less
            nothing = torch.zeros(0, key_dim, device=device), torch.zeros(0, dtype=torch.int64, device=device)
            anchors.update(*nothing)
    return anchors


def test_scores(state: State, data: SegmentationData, device: torch.device) -> dict:
    """mIoU of student and teacher on the test images (and those held out), and the teacher's IoU of each class."""
    num_classes = len(data.class_names)
    if evaluation.distributed():  # BatchNorm statistics are each rank's own (but on GPUs): report one network
        for buffer in (*state.model.buffers(), *state.teacher.buffers()):
            torch.distributed.broadcast(buffer, 0)
    scores, networks = {}, {"student": state.model, "teacher": state.teacher.module}
    for prefix, samples in (("", data.test), ("held_out_", data.held_out)):
        for name, model in networks.items() if samples else ():
            iou = evaluation.test_iou(model, samples, num_classes, device)
            scores[f"{prefix}{name}_miou"] = float(iou.nanmean())
            per_class = [round(value, 4) for value in iou.tolist()]
            scores[f"{prefix}{name}_iou"] = dict(zip(data.class_names, per_class, strict=True))
    return scores


def batches(
    data: SegmentationData, config: Config, steps: int, *, hidden: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """As many weak-view batches as steps, of labeled images, or (`hidden`) of unlabeled ones without their labels."""
    view = WeakView(config.crop, config.scale, flip=config.flip and data.flip)
    images = SegmentationImages(data.unlabeled if hidden else data.labeled, view, hidden=hidden)
    return iter(
        DataLoader(
            images,
            config.batch_size,
            sampler=EndlessSampler(len(images), steps * config.batch_size, config.seed),
            num_workers=config.workers,
            pin_memory=config.device.startswith("cuda"),
        )
    )


class EndlessSampler(Sampler[int]):
    """`count` indices for this rank from one endless seeded shuffle, of which rank r takes every world-th.

    Like `DistributedSampler`, but over as many epochs as it takes: batches never shrink at the end of an epoch, and a
    set smaller than a batch is no special case.
    """

    def __init__(self, length: int, count: int, seed: int):
        self.length, self.count, self.seed = length, count, seed

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        rank, ranks = evaluation.rank_and_ranks()
        generator = torch.Generator().manual_seed(self.seed)
        needed = self.count * ranks
        rounds = [torch.randperm(self.length, generator=generator) for _ in range(-(-needed // self.length))]
        return iter(torch.cat(rounds)[rank:needed:ranks].tolist())


def join_processes(config: Config) -> bool:
    """Join the other processes where `torchrun` started several; True on the one that writes files."""
    config.out.mkdir(parents=True, exist_ok=True)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return True
    on_gpu = config.device.startswith("cuda")
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo")
    if on_gpu:
        config.device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(config.device)
    return torch.distributed.get_rank() == 0
