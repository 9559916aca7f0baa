"""Question answering over documents in the format of SQuAD."""
