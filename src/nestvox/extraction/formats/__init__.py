"""Vectors as other programs keep them."""
