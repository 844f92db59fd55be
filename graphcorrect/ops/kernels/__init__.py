"""Faster implementations of the operations, imported where the rule of an operation chooses them."""
