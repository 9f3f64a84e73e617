"""From utterance tables to stores of embeddings, and from stores to the formats of others."""
