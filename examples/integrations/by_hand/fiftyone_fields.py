"""FiftyOne: corrected masks and wrong annotations as fields of a dataset, and its evaluation before and after.

Needs `pip install fiftyone` and the MongoDB that comes with it, or `FIFTYONE_DATABASE_URI`. Too large for CI: run with
FiftyOne 1.22.1 by hand.
"""

import sys
import tempfile
from pathlib import Path

import fiftyone as fo
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))
from scenes import LOOK_UP, NUM_CLASSES, TRAIN, UNLABELED, SmallNetwork, scenes

from graphcorrect import SegmentationCorrector, label_issues

CLASSES = {0: "ground", 1: "zero", 2: "one"}


def main() -> dict[str, float]:
    """Builds the dataset, fills the fields, and returns the mIoU of each field by FiftyOne's evaluation."""
    torch.manual_seed(0)
    images, truth = scenes()
    images = (images * 0.3 + 0.5).clamp(0, 1)
    network = trained(images[TRAIN], truth[TRAIN])
    dataset = with_predictions(images[UNLABELED], truth[UNLABELED], network)

    # From here on, what you would write: a corrector of labeled images, and two fields of every sample
    corrector = SegmentationCorrector(NUM_CLASSES, network.backbone, magnifications=(1.0,))
    corrector.fit(images[LOOK_UP], truth[LOOK_UP])
    for sample in dataset.iter_samples(autosave=True):
        image, given = picture(sample), torch.from_numpy(sample["ground_truth"].mask)
        with torch.no_grad():
            logits = network(image[None])
        corrected = corrector(image[None], logits=logits)
        sample["corrected"] = fo.Segmentation(mask=corrected.labels[0].numpy().astype(np.uint8))
        found = next(iter(label_issues([given], logits.softmax(1), [image])))
        sample["label_issues"] = fo.Segmentation(mask=found.issues.numpy().astype(np.uint8))  # 1: looks wrong
        sample["label_quality"] = found.image_score
    worst = dataset.sort_by("label_quality").first()
    print(f"look at {Path(worst.filepath).name} first: label quality {worst['label_quality']:.2f}")

    scores = {}
    for field in ("predictions", "corrected"):
        report = dataset.evaluate_segmentations(
            field, gt_field="ground_truth", eval_key=field, mask_targets=CLASSES, compute_dice=False
        )
        scores[field] = iou_of(report)
    print(f"mIoU: predictions {scores['predictions']:.1%}, corrected {scores['corrected']:.1%}")
    return scores


def trained(images: torch.Tensor, labels: torch.Tensor, steps: int = 60) -> SmallNetwork:
    """Stands for your network."""
    network = SmallNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(steps):
        batch = torch.randint(len(images), (8,))
        loss = F.cross_entropy(network(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@torch.no_grad()
def with_predictions(images: torch.Tensor, truth: torch.Tensor, network: SmallNetwork) -> fo.Dataset:
    """Stands for your dataset: pictures on disk, fields `ground_truth` and `predictions`."""
    folder = Path(tempfile.mkdtemp())
    dataset = fo.Dataset()
    dataset.default_mask_targets = CLASSES
    for number, (image, labels) in enumerate(zip(images, truth, strict=True)):
        path = folder / f"{number}.png"
        Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy()).save(path)
        sample = fo.Sample(filepath=str(path))
        sample["ground_truth"] = fo.Segmentation(mask=labels.numpy().astype(np.uint8))
        predicted = network(image[None]).argmax(1)[0]
        sample["predictions"] = fo.Segmentation(mask=predicted.numpy().astype(np.uint8))
        dataset.add_sample(sample)
    return dataset


def picture(sample: fo.Sample) -> torch.Tensor:
    """(3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(Image.open(sample.filepath))).permute(2, 0, 1).float() / 255


def iou_of(report) -> float:
    """Mean IoU of an evaluation, from its pixel confusion matrix."""
    confusion = report.pixel_confusion_matrix
    hits = np.diag(confusion)
    return float(np.mean(hits / (confusion.sum(0) + confusion.sum(1) - hits)))


if __name__ == "__main__":
    main()
