"""Pictures of what the graphs do: neighbors, corrections, thresholds and prototypes over training, embeddings.

matplotlib is imported when a function here is called, not with graphcorrect; `pip install matplotlib`
brings it. Every function draws into the axes that it is given, or into a new figure, and returns the axes.
"""

from graphcorrect.plot.edges import neighbors
from graphcorrect.plot.histories import prototype_history, threshold_history
from graphcorrect.plot.outcomes import BROKEN, CHANGED, FIXED, WRONG, corrections
from graphcorrect.plot.plane import Method, embedding

# The functions stand in the order in which the reference shows them.
__all__ = [
    "neighbors",
    "corrections",
    "threshold_history",
    "prototype_history",
    "embedding",
    "BROKEN",
    "CHANGED",
    "FIXED",
    "WRONG",
    "Method",
]
