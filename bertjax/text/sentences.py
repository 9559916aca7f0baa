"""Sentence splitting, by the `sentencex` library (rules of about 240 languages)."""


def split_sentences(text: str, language: str = "en") -> list[str]:
    """Splits running text into sentences; a blank line always ends one.

    Args:
        text: running text, hard-wrapped or not.
        language: ISO 639-1 code; one that the library doesn't know is read by the rules of the
            nearest language that it does, in the end English.

    Returns:
        The sentences in order, each on one line with single spaces, none empty.
    """
    from sentencex import segment  # pyright: ignore[reportAttributeAccessIssue] - compiled, untyped

    sentences = (" ".join(part.split()) for part in segment(language, text))
    return [sentence for sentence in sentences if sentence]
