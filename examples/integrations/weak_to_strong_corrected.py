"""A weak-to-strong trainer of the shape of FixMatch and UniMatch, as many people have one.

The model labels the weak view of an unlabeled batch, and learns these labels on the strong view, where it was sure.
`weak_to_strong_corrected.py` is `weak_to_strong.py` with these labels corrected; `weak_to_strong.diff`, the difference.
"""

import torch
import torch.nn.functional as F
from scenes import LOOK_UP, NUM_CLASSES, TRAIN, UNLABELED, SmallNetwork, quality, scenes, strong_view

from graphcorrect import AnchorBank, DualGraphRefiner


def cutmix_boxes(count: int, size: int) -> torch.Tensor:
    """One half-sized square for each image, (count, size, size) bool."""
    corner = torch.randint(size // 2, (2, count, 1, 1))
    place = torch.arange(size)
    rows = (place[:, None] >= corner[0]) & (place[:, None] < corner[0] + size // 2)
    return rows & (place >= corner[1]) & (place < corner[1] + size // 2)


@torch.no_grad()
def pseudo_label(model, images, refiner, anchors, labeled):
    """Confidence and labels of the weak view, (B, H, W) each."""
    model.eval()
    anchors.update(model.backbone(labeled[0]), labeled[1])
    features = model.backbone(images)
    pred_w = refiner(features, model.classify(features), anchors=anchors).soft_labels
    conf_w, mask_w = pred_w.max(dim=1)
    model.train()
    return conf_w, mask_w


def main(warm_up=40, steps=40, conf_thresh=0.8, seed=0):
    torch.manual_seed(seed)
    images, labels = scenes(seed=seed)
    model = SmallNetwork()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    refiner = DualGraphRefiner(NUM_CLASSES, feature_dim=32)
    anchors = AnchorBank(NUM_CLASSES, feature_dim=32, decay=0.9)
    labeled = images[LOOK_UP], labels[LOOK_UP]
    counts = {}

    for step in range(warm_up + steps):
        batch_x = torch.randint(len(images[TRAIN]), (8,))
        img_x, mask_x = images[batch_x], labels[batch_x]
        loss = F.cross_entropy(model(img_x), mask_x)

        if step >= warm_up:
            img_u_w = images[UNLABELED][torch.randint(len(images[UNLABELED]), (8,))]
            conf_u_w, mask_u_w = pseudo_label(model, img_u_w, refiner, anchors, labeled)

            box = cutmix_boxes(len(img_u_w), img_u_w.shape[-1])
            img_u_s = strong_view(img_u_w)
            img_u_s = torch.where(box[:, None], img_u_s.flip(0), img_u_s)
            mask_u_s = torch.where(box, mask_u_w.flip(0), mask_u_w)
            conf_u_s = torch.where(box, conf_u_w.flip(0), conf_u_w)

            loss_u = F.cross_entropy(model(img_u_s), mask_u_s, reduction="none")
            loss = (loss + (loss_u * (conf_u_s >= conf_thresh)).mean()) / 2

        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        if step + 1 in (warm_up, warm_up + steps):
            _, mask_w = pseudo_label(model, images[UNLABELED], refiner, anchors, labeled)
            said = model.eval()(images[UNLABELED]).argmax(1)
            model.train()
            counts[step + 1] = quality(f"step {step + 1}", said, mask_w, labels[UNLABELED])
    return counts


if __name__ == "__main__":
    main()
