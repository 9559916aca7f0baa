"""ROUGE of summaries, with the library `rouge-score` (extra seq2seq)."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, Literal, get_args

from bertjax.errors import UserError

RougeTokenization = Literal["english", "words", "characters"]
"""How `rouge_scores` splits texts; it says what each value means."""

_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def rouge_scores(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    tokenize: RougeTokenization = "english",
) -> dict[str, float]:
    """Computes the mean ROUGE F1 of summaries (Lin, 2004), times 100.

    `rouge-score` is Google's reimplementation of ROUGE-1.5.5, by which See et al. (2017, the
    pointer-generator) and later papers report F1; Hugging Face's `evaluate` wraps it. All texts are
    lowercased, then split as `tokenize` says:

    - english: at every character but a-z and 0-9; words of more than three letters are stemmed by
      Porter's stemmer (the option -m of ROUGE-1.5.5, `use_stemmer` of `evaluate`).
    - words: at every character but letters, marks and numbers of any script; nothing is stemmed.
    - characters: each letter, mark or number is a token, for scripts without spaces.

    rougeL treats a text as one sequence. rougeLsum takes each line as a sentence, as the references
    of CNN/DailyMail are stored, and equals rougeL where no text has a newline. For running text,
    the caller splits both sides into sentences, as Hugging Face's run_summarization.py does. The
    means are plain ones; `evaluate` by default resamples with a random seed.

    Args:
        predictions: N texts, which may be empty.
        references: N texts.
        tokenize: how texts are split.

    Returns:
        rouge1, rouge2, rougeL, rougeLsum.

    Raises:
        UserError: see `check_rouge`.
    """
    scorer = check_rouge(references, tokenize)
    pairs = zip(references, predictions, strict=True)
    scored = [scorer.score(reference, prediction) for reference, prediction in pairs]
    return {
        name: 100 * sum(scores[name].fmeasure for scores in scored) / len(scored) for name in _TYPES
    }


def rouge_notes(tokenize: RougeTokenization) -> dict[str, str]:
    """Returns for each metric of `rouge_scores` how it is computed; raises as `check_rouge`."""
    check_rouge(["1"], tokenize)
    how = {
        "english": "words of a-z and 0-9 with Porter's stemmer",
        "words": "words of any script, not stemmed",
        "characters": "characters",
    }[tokenize]
    return dict.fromkeys(_TYPES, f"F1 by rouge-score {version('rouge-score')}, {how}")


def check_rouge(
    references: Sequence[str],
    tokenize: str = "english",
    where: Callable[[int], str] = lambda index: f"Reference {index + 1}",
) -> Any:
    """Returns a `RougeScorer` for these references; `where` names one of them in errors.

    Raises:
        UserError: `rouge-score` is not installed; `tokenize` is unknown; there is no reference, or
            one without a token; or `tokenize` is english and most letters are not a-z.
    """
    if tokenize not in get_args(RougeTokenization):
        raise UserError(
            f"`tokenize` is {tokenize!r}, which ROUGE does not have: give one of "
            f"{', '.join(get_args(RougeTokenization))}."
        )
    try:
        from rouge_score.rouge_scorer import RougeScorer
        from rouge_score.tokenizers import DefaultTokenizer
    except ImportError:
        raise UserError(
            "ROUGE needs rouge-score, which is not installed: pip install 'bertjax[seq2seq]'."
        ) from None
    if not references:
        raise UserError("There is no reference to compute ROUGE with: give at least one example.")
    letters = [letter for letter in "".join(references) if letter.isalpha()]
    if tokenize == "english" and sum(map(str.isascii, letters)) < len(letters) / 2:
        raise UserError(
            "Most letters of the references are not a-z, which are all that the tokenization "
            "english of ROUGE keeps: let `tokenize` be words, or characters if the language is "
            "written without spaces."
        )
    tokenizer = DefaultTokenizer(use_stemmer=True) if tokenize == "english" else _Split(tokenize)
    for index, reference in enumerate(references):
        if not tokenizer.tokenize(reference):
            raise UserError(
                f"{where(index)}: {reference!r:.80} has no word that ROUGE can count: leave the "
                "example out, or give it a reference."
            )
    return RougeScorer(_TYPES, tokenizer=tokenizer)


def split_words(text: str, tokenize: str) -> list[str]:
    """Splits a text as `rouge_scores` does; nothing is stemmed."""
    lowered = text.lower()
    if tokenize == "english":
        return re.findall(r"[a-z0-9]+", lowered)
    words = lowered.translate(_ONLY_WORDS).split()
    return words if tokenize == "words" else list("".join(words))


class _OnlyWords(dict[int, int]):
    """For `str.translate`: keeps letters, marks and numbers, and makes all else a space."""

    def __missing__(self, code: int) -> int:
        self[code] = code if unicodedata.category(chr(code))[0] in "LMN" else ord(" ")
        return self[code]


_ONLY_WORDS = _OnlyWords()


class _Split:
    """A tokenizer of `rouge-score` for scripts other than a-z."""

    def __init__(self, tokenize: str) -> None:
        self._tokenize = tokenize

    def tokenize(self, text: str) -> list[str]:
        """Returns the lowercase words or characters of a text."""
        return split_words(text, self._tokenize)
