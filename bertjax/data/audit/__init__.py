"""Checks of text and of prepared shards."""
