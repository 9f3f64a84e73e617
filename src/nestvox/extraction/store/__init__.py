"""Embeddings on the disk: Arrow shards and what they are of."""
