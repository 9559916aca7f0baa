"""Sequence to sequence: translation, summarization, and any other text written from a text."""
