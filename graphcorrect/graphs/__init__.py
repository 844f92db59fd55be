"""Graphs over nodes, as values that multiply."""

from graphcorrect.graphs.affinity import KNNAffinity
from graphcorrect.graphs.class_block import ClassBlockOperator
from graphcorrect.graphs.consistency import ClassConsistencyGraph
from graphcorrect.graphs.neighbor import NeighborOperator
from graphcorrect.graphs.operator import GraphOperator

__all__ = ["ClassBlockOperator", "ClassConsistencyGraph", "GraphOperator", "KNNAffinity", "NeighborOperator"]
