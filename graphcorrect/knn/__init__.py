"""Neighbor search: one call, several backends."""

from graphcorrect.knn.search import Neighbors, knn

__all__ = ["Neighbors", "knn"]
