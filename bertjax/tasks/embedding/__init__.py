"""Sentence embeddings: vectors of texts whose cosine is the similarity of the texts."""
