"""segmentation-models-pytorch: a Unet in a plain loop, trained on labels that the graphs have corrected."""

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from scenes import LOOK_UP, NUM_CLASSES, TRAIN, UNLABELED, quality, scenes, strong_view

from graphcorrect import AnchorBank, DualGraphRefiner, EMATeacher, metrics


def features_and_logits(model: smp.Unet, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the decoder computes (B, 32, H, W), and what the last layer makes of it (B, C, H, W)."""
    features = model.decoder(model.encoder(images))
    return features, model.segmentation_head(features)


def main(warm_up: int = 40, steps: int = 10, seed: int = 0) -> metrics.CorrectionCounts:
    """Trains, and returns what the correction did to the labels of all unlabeled scenes."""
    torch.manual_seed(seed)
    images, labels = scenes(seed=seed)
    unlabeled = images[UNLABELED]
    model = smp.Unet(
        "resnet18", encoder_weights=None, encoder_depth=3, decoder_channels=(64, 32, 32), classes=NUM_CLASSES
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(warm_up):  # on labeled scenes alone
        batch = torch.randint(len(labels[TRAIN]), (8,))
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    teacher = EMATeacher(model, momentum=0.99)
    refiner = DualGraphRefiner(NUM_CLASSES, feature_dim=32, max_nodes=24 * 24)
    anchors = AnchorBank(NUM_CLASSES, feature_dim=32)

    @torch.no_grad()
    def look_up_and_correct(pictures: torch.Tensor):
        features, logits = features_and_logits(teacher.module, pictures)
        return logits, refiner(features, logits, anchors=anchors)

    with torch.no_grad():
        features, _ = features_and_logits(teacher.module, images[LOOK_UP])
    anchors.update(F.avg_pool2d(features, 2), labels[LOOK_UP])  # on the grid of the graphs
    logits, refined = look_up_and_correct(unlabeled)
    counts = quality("smp.Unet", logits.argmax(1), refined.pseudo_labels, labels[UNLABELED])

    for _ in range(steps):  # and now on all of them
        batch, known = torch.randint(len(unlabeled), (8,)), torch.randint(len(labels[TRAIN]), (8,))
        _, refined = look_up_and_correct(unlabeled[batch])
        predicted = model(torch.cat([images[known], strong_view(unlabeled[batch])]))
        loss = F.cross_entropy(predicted[:8], labels[known]) + F.cross_entropy(predicted[8:], refined.pseudo_labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        teacher.update(model)
    return counts


if __name__ == "__main__":
    main()
