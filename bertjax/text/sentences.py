"""Sentence splitting with the `sentencex` library, which has rules for about 240 languages."""


def split_sentences(text: str, language: str = "en") -> list[str]:
    """Splits running text into sentences. A blank line always ends a sentence.

    Args:
        text: running text, hard-wrapped or not.
        language: an ISO 639-1 code. For a language without rules, the library uses those of the
            nearest language that has some, and English as a last resort.

    Returns:
        The sentences in order, none of them empty, each on one line with single spaces.
    """
    from sentencex import segment  # pyright: ignore[reportAttributeAccessIssue] - compiled, untyped

    sentences = (" ".join(sentence.split()) for sentence in segment(language, text))
    return [sentence for sentence in sentences if sentence]
