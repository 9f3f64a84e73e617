"""Heads: maps from an encoder's output to a nested embedding."""
