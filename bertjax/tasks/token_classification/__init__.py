"""Token classification: a tag for each word, for named entities, parts of speech and chunks."""
