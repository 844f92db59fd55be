"""Names for the literals that appear in more than one signature."""

from typing import Literal

Backend = Literal["auto", "torch", "faiss", "faiss-ivf", "triton"]
Scoring = Literal["auto", "float32", "float16", "bfloat16", "int8"]
Reduction = Literal["mean", "sum", "none"]
Order = Literal["class_first", "semantic_first", "simultaneous"]
