"""From trials and embeddings to scores, and what is refused on the way."""
