"""Lightning: a module that learns from corrected labels, and a callback that says what the correction does to them."""

import warnings

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import CombinedLoader
from scenes import LOOK_UP, NUM_CLASSES, TRAIN, UNLABELED, SmallNetwork, quality, scenes, strong_view
from torch.utils.data import DataLoader, TensorDataset

from graphcorrect import AnchorBank, DualGraphRefiner, EMATeacher, metrics


class SelfTraining(lightning.LightningModule):
    """Banks, refiner and teacher are submodules: they move with the module and are in its checkpoints."""

    def __init__(self, feature_dim: int = 32, warm_up: int = 40):
        super().__init__()
        self.warm_up = warm_up
        self.network = SmallNetwork(feature_dim)
        self.refiner = DualGraphRefiner(NUM_CLASSES, feature_dim).requires_grad_(False)
        self.anchors = AnchorBank(NUM_CLASSES, feature_dim, decay=0.99)  # follows a network that is being trained
        self.teacher = EMATeacher(self.network, momentum=0.9)

    @torch.no_grad()
    def correct(self, images):
        """Labels (B, H, W) before and after correction."""
        features = self.teacher.module.backbone(images)
        logits = self.teacher.module.classify(features)
        return logits.argmax(1), self.refiner(features, logits, anchors=self.anchors).pseudo_labels

    def training_step(self, batch, batch_index):
        images, labels = batch["labeled"]
        loss = F.cross_entropy(self.network(images), labels)
        self.anchors.update(self.teacher.module.backbone(batch["look_up"][0]), batch["look_up"][1])
        if self.global_step >= self.warm_up:
            _, pseudo_labels = self.correct(batch["unlabeled"][0])
            loss = loss + F.cross_entropy(self.network(strong_view(batch["unlabeled"][0])), pseudo_labels)
        return loss

    def on_train_batch_end(self, outputs, batch, batch_index):
        self.teacher.update(self.network)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.network.parameters(), lr=3e-3)


class CorrectionQuality(lightning.Callback):
    """Logs how many labels of images with a known truth the correction fixes and breaks, every so many steps."""

    def __init__(self, images, truth, every: int = 10):
        self.images, self.truth, self.every = images, truth, every
        self.counts: dict[int, metrics.CorrectionCounts] = {}

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        if trainer.global_step % self.every == 0:
            before, after = (labels.cpu() for labels in module.correct(self.images.to(module.device)))
            counts = quality(f"Lightning, step {trainer.global_step}", before, after, self.truth)
            module.log_dict({"labels/fixed": float(counts.fixed), "labels/broken": float(counts.broken)})
            self.counts[trainer.global_step] = counts


def main(steps: int = 60, seed: int = 0) -> dict[int, metrics.CorrectionCounts]:
    """Trains, and returns by step what the correction did to the labels of all unlabeled scenes."""
    lightning.seed_everything(seed, verbose=False)
    images, labels = scenes(seed=seed)

    def loader(part: slice) -> DataLoader:
        return DataLoader(TensorDataset(images[part], labels[part]), batch_size=8, shuffle=True, drop_last=True)

    loaders = {"labeled": loader(TRAIN), "look_up": loader(LOOK_UP), "unlabeled": loader(UNLABELED)}
    watch = CorrectionQuality(images[UNLABELED], labels[UNLABELED])
    trainer = lightning.Trainer(
        max_steps=steps,
        callbacks=[watch],
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*num_workers")  # the data are in memory
        trainer.fit(SelfTraining(), CombinedLoader(loaders, mode="max_size_cycle"))
    return watch.counts


if __name__ == "__main__":
    main()
