"""BLEU and chrF of translations, with the library `sacrebleu` (extra seq2seq)."""

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bertjax.errors import UserError

_AT_SPACES = ("13a", "intl", "none")  # tokenizations that split words at spaces alone
_WITHOUT_SPACES = {"CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"}


class BleuScores(NamedTuple):
    """Scores of a corpus of translations, and how they were computed."""

    scores: dict[str, float]
    """bleu and chrf, 0 to 100."""
    signatures: dict[str, str]
    """sacreBLEU's signatures of both: references, case, tokenization, smoothing and version."""


def bleu_scores(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    tokenize: str = "13a",
    lowercase: bool = False,
) -> BleuScores:
    """Computes corpus BLEU (Papineni et al., 2002) and chrF2 (Popović, 2015) as sacreBLEU does.

    The texts are detokenized; sacreBLEU tokenizes both sides (Post, 2018). A score without its
    signature compares with nothing.

    Args:
        predictions: one text per example, which may be empty.
        references: as many texts.
        tokenize: a tokenization of sacreBLEU, for BLEU alone; 13a is its default and WMT's.
        lowercase: compares lowercase texts.

    Raises:
        UserError: see `check_bleu`.
    """
    bleu = check_bleu(references, tokenize, lowercase)
    from sacrebleu.metrics.chrf import CHRF

    if len(predictions) != len(references):  # sacreBLEU would cut the longer list
        raise ValueError(f"{len(predictions)} predictions and {len(references)} references")
    metrics = {"bleu": bleu, "chrf": CHRF(lowercase=lowercase)}
    scores = {
        name: metric.corpus_score(predictions, [references]).score
        for name, metric in metrics.items()
    }
    signatures = {name: str(metric.get_signature()) for name, metric in metrics.items()}
    return BleuScores(scores, signatures)


def check_bleu(
    references: Sequence[str],
    tokenize: str = "13a",
    lowercase: bool = False,
    where: Callable[[int], str] = lambda index: f"Reference {index + 1}",
) -> Any:
    """Returns a `sacrebleu.BLEU` for these references; `where` names one of them in errors.

    Raises:
        UserError: `sacrebleu`, or what the tokenization needs, is not installed or can't be
            downloaded; `tokenize` is unknown; there is no reference, or an empty one; or `tokenize`
            splits at spaces and most letters belong to a script without them.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        raise UserError(
            "BLEU needs sacrebleu, which is not installed: pip install 'bertjax[seq2seq]'."
        ) from None
    if tokenize not in BLEU.TOKENIZERS:
        raise UserError(
            f"`tokenize` is {tokenize!r}, which sacreBLEU does not have: give one of "
            f"{', '.join(BLEU.TOKENIZERS)}."
        )
    if not references:
        raise UserError("There is no reference to compute BLEU with: give at least one example.")
    for index, reference in enumerate(references):
        if not reference.strip():
            raise UserError(
                f"{where(index)}: the reference is empty; leave the example out, or write one."
            )
    if tokenize in _AT_SPACES and _is_without_spaces(references):
        raise UserError(
            "The references are written without spaces between words, and the tokenization "
            f"{tokenize} of BLEU splits at spaces: let `tokenize` be zh for Chinese, ja-mecab for "
            "Japanese, or char or flores200 for any language."
        )
    try:
        return BLEU(tokenize=tokenize, lowercase=lowercase)
    except (ImportError, RuntimeError):
        language = {"ja-mecab": "ja", "ko-mecab": "ko"}.get(tokenize)
        package = f"sacrebleu[{language}]" if language else "sacrebleu"
        raise UserError(
            f"The tokenization {tokenize} of BLEU needs a package that is not installed: "
            f"pip install '{package}'."
        ) from None
    except OSError as error:
        raise UserError(
            f"The tokenization {tokenize} of BLEU could not load its model, which sacreBLEU "
            f"downloads ({error}): connect to the network, or let `tokenize` be char."
        ) from None


def _is_without_spaces(texts: Sequence[str]) -> bool:
    """Whether most letters belong to scripts without spaces between words."""
    counts = Counter(letter for letter in "".join(texts) if letter.isalpha())
    without = sum(
        count
        for letter, count in counts.items()
        if unicodedata.name(letter, "").replace("-", " ").split(" ")[0] in _WITHOUT_SPACES
    )
    return 2 * without > counts.total()
