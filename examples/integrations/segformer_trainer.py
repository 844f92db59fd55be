"""Hugging Face: a SegFormer with `Trainer`, whose loss learns from labels that the graphs have corrected.

The SegFormer is a small one with random weights, so that nothing is downloaded; `from_pretrained` goes in its place.
"""

import tempfile

import torch
import torch.nn.functional as F
from scenes import LOOK_UP, NUM_CLASSES, TRAIN, UNLABELED, quality, scenes, strong_view
from torch import Tensor
from transformers import SegformerConfig, SegformerForSemanticSegmentation, Trainer, TrainerCallback, TrainingArguments

from graphcorrect import AnchorBank, DualGraphRefiner, EMATeacher, metrics


class SegformerWithFeatures(SegformerForSemanticSegmentation):
    """A SegFormer that also returns what its last layer is given: the fused map of the decode head."""

    def features_and_logits(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        kept = []
        hook = self.decode_head.classifier.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
        logits = self(pixel_values=pixel_values).logits
        hook.remove()
        return kept[0], logits


class CorrectingTrainer(Trainer):
    """Adds the loss on unlabeled images, with the teacher's corrected labels, to that on labeled ones."""

    def __init__(self, *args, anchors: AnchorBank, **kwargs):
        super().__init__(*args, **kwargs)
        config = self.model.config
        self.anchors = anchors
        self.refiner = DualGraphRefiner(config.num_labels, config.decoder_hidden_size)
        self.teacher = EMATeacher(self.model, momentum=0.99)
        self.add_callback(TeacherFollows(self.teacher))

    @torch.no_grad()
    def correct(self, pixel_values: Tensor):
        features, logits = self.teacher.module.features_and_logits(pixel_values)
        refined = self.refiner(features, logits, anchors=self.anchors)
        sizes = {"size": pixel_values.shape[-2:], "mode": "bilinear"}
        return F.interpolate(logits, **sizes).argmax(1), F.interpolate(refined.soft_labels, **sizes).argmax(1)

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        unlabeled = inputs.pop("unlabeled_values")
        _, pseudo_labels = self.correct(unlabeled)
        outputs = model(
            pixel_values=torch.cat([inputs["pixel_values"], strong_view(unlabeled)]),
            labels=torch.cat([inputs["labels"], pseudo_labels]),
        )
        return (outputs.loss, outputs) if return_outputs else outputs.loss


class TeacherFollows(TrainerCallback):
    def __init__(self, teacher: EMATeacher):
        self.teacher = teacher

    def on_step_end(self, args, state, control, model, **kwargs):
        self.teacher.update(model)


def main(warm_up: int = 120, steps: int = 10, seed: int = 0) -> metrics.CorrectionCounts:
    """Trains, and returns what the correction did to the labels of all unlabeled scenes."""
    torch.manual_seed(seed)
    images, labels = scenes(seed=seed)
    model = SegformerWithFeatures(
        SegformerConfig(
            num_labels=NUM_CLASSES,
            num_encoder_blocks=3,
            depths=[1, 1, 1],
            sr_ratios=[4, 2, 1],
            hidden_sizes=[32, 32, 64],
            patch_sizes=[5, 3, 3],
            strides=[2, 2, 2],
            num_attention_heads=[1, 2, 4],
            mlp_ratios=[2, 2, 2],
            decoder_hidden_size=32,
        )
    )
    labeled = [{"pixel_values": images[i], "labels": labels[i]} for i in range(*TRAIN.indices(len(images)))]

    def arguments(max_steps: int) -> TrainingArguments:
        return TrainingArguments(
            output_dir=tempfile.mkdtemp(),
            max_steps=max_steps,
            per_device_train_batch_size=8,
            learning_rate=3e-3,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
            remove_unused_columns=False,  # `unlabeled_values` is for the loss, not for the model
            seed=seed,
        )

    Trainer(model, arguments(warm_up), train_dataset=labeled).train()

    device = model.device
    anchors = AnchorBank(NUM_CLASSES, feature_dim=32).to(device)
    model.eval()
    with torch.no_grad():
        features, _ = model.features_and_logits(images[LOOK_UP].to(device))
    anchors.update(features, labels[LOOK_UP].to(device))

    pairs = [{**labeled[i % len(labeled)], "unlabeled_values": image} for i, image in enumerate(images[UNLABELED])]
    trainer = CorrectingTrainer(model, arguments(steps), train_dataset=pairs, anchors=anchors)
    trainer.refiner.to(device)
    before, after = trainer.correct(images[UNLABELED].to(device))
    counts = quality("SegFormer", before.cpu(), after.cpu(), labels[UNLABELED])
    trainer.train()
    return counts


if __name__ == "__main__":
    main()
