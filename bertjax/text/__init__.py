"""Raw text to token ids."""
