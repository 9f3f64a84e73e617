"""Training criteria for nested embeddings: margins over speaker classes, pairs, and distillation, for every prefix."""
