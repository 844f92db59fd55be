"""What a run remembers of the nodes it has seen."""

from graphcorrect.banks.anchors import AnchorBank

__all__ = ["AnchorBank"]
