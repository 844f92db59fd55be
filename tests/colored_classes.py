"""Three classes with colors of their own, and labels with all of them."""

import torch

from graphcorrect.files import LabelMap

NAMES = ("background", "road", "traffic light")
COLORS = {(0, 0, 0): 0, (128, 64, 128): 1, (250, 170, 30): 2, (224, 224, 192): 255}
MAP = LabelMap(NAMES, COLORS)
LABELS = torch.tensor([[0, 1, 2, 255, 0], [2, 2, 1, 0, 255], [1, 1, 1, 2, 0]])
