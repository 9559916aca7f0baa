"""Kinds of fine-tuning tasks, one package each, and what they share.

`task` defines the protocol of a kind, `kinds` is their table. Nothing outside names a kind.
"""
