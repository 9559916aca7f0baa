"""What is wrong with a text, or with examples made of it, in words.

`measure.py` counts; here the counts become numbers (kept in audit.json beside the manifest) and the
numbers become warnings. `inspect_data.py` audits without preparing.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from bertjax.data.measure import Repeats

FILE = "audit.json"
_FORMAT_VERSION = 1
_LENGTH_BINS = 8
_LISTED_SHARE = 6  # digits

# Where a number becomes a warning. "The novels" are 87 English novels, one sentence a line and a
# blank line after a chapter, with BERT's own uncased vocabulary: what a healthy text looks like.

# Half of the documents: short ones among others are normal, most of them mean a misplaced blank
# line. (The novels: none.)
ONE_SENTENCE_DOCUMENTS = 0.5
# A long article has some hundred sentences, a chapter of the novels 175; a whole novel 7,000.
SENTENCES_PER_DOCUMENT = 1000
# Vocabularies that fit leave far less: BERT's own on English 0.001%, a SentencePiece vocabulary by
# its character coverage 0.05%.
UNKNOWN_TOKENS = 0.01
# English with BERT's vocabulary has 1.3, languages with long words 2 with a vocabulary of theirs.
PIECES_PER_WORD = 3.0
# Where words are longer than this, blanks don't separate them (Chinese, Thai), and pieces a word
# say nothing.
CHARACTERS_PER_WORD = 15.0
# Headings are in capitals in any text: 0.1% of the novels' lines.
UPPER_CASE_CHARACTERS = 0.5
# A mathematical < or an & is no markup; what is meant occurs in none of the novels' lines.
MARKUP_LINES = 0.005
# Of the characters, in lines with three ends of sentences inside: less than 1% in the novels, most
# of them once their paragraphs are lines.
PARAGRAPH_CHARACTERS = 0.2
# 0.3% of the novels' sentences are longer than 125 tokens, 5% longer than 61.
LONG_SENTENCES = 0.1
# A row that is mostly padding costs twice the time that it is worth.
PADDING = 0.5
# Google's algorithm aims at half and gives some more, because a chunk of one sentence always takes
# a random B: 55% at 128 tokens of the novels, more where examples are short. Beyond a quarter the
# labels can be guessed.
NEXT_SENTENCE_MARGIN = 0.25
# The order of two segments is swapped by a fair coin.
ORDER_MARGIN = 0.05
# 0.08% of the novels' sentences of at least 8 tokens. At a few percent a model begins to recite
# (Lee et al., 2022, "Deduplicating Training Data Makes Language Models Better").
REPEATED_SENTENCES = 0.02
# One sentence that is a thousandth of a text and stands there this often was put there by a
# machine: the most frequent of the novels' is a 25,000th.
BOILERPLATE_SHARE, BOILERPLATE_TIMES = 0.001, 20
# Held-out loss is too good by what was learned by heart; the novels: 0.1%, all of them phrases.
HELD_OUT_IN_TRAIN = 0.01
# A cut of one prediction in a hundred is no loss; Google's 20 for 128 tokens cuts none.
PREDICTIONS_CUT = 0.01
_STANDARD_ERRORS = 4.0
_SPLIT_WORDS = {"train": "training", "held_out": "held-out"}

Example = Callable[[str], str]
"""' (for example FILE:LINE: "...")' for a kind of finding, or nothing."""


class Finding(NamedTuple):
    """One warning."""

    name: str
    """Of the fault: the same for all texts that have it."""
    says: str
    """What is wrong, with its number and an example, and what to do."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What an audit found."""

    numbers: dict[str, Any]
    findings: tuple[Finding, ...]

    def to_json(self) -> str:
        """The text of `audit.json`."""
        fields = {
            "format_version": _FORMAT_VERSION,
            "warnings": [finding._asdict() for finding in self.findings],
            "numbers": self.numbers,
        }
        return json.dumps(fields, indent=1, ensure_ascii=False) + "\n"


def read(directory: epath.Path) -> Report | None:
    """The report that `prepare` left; None if there is none, or one of another version."""
    path = directory / FILE
    if not path.exists():
        return None
    try:
        fields = json.loads(path.read_bytes())
        if fields["format_version"] != _FORMAT_VERSION:
            return None
        findings = tuple(Finding(str(row["name"]), str(row["says"])) for row in fields["warnings"])
        return Report(dict(fields["numbers"]), findings)
    except (KeyError, RecursionError, TypeError, ValueError):
        return None


def tell(reports: Sequence[Report | None], log: Callable[[str], None]) -> None:
    """Says all warnings, each once."""
    findings = [finding for report in reports if report is not None for finding in report.findings]
    for says in dict.fromkeys(finding.says for finding in findings):
        log(f"Warning: {says}")


# Numbers ----------------------------------------------------------------------------------------


def text_numbers(sums: Mapping[str, int], words: int) -> dict[str, Any]:
    """What the sums of `measure.TextSums`, over so many words, say."""
    return {
        "words": words,
        "tokens": sums["tokens"],
        "unknown_tokens": _share(sums["unknown_tokens"], sums["tokens"]),
        "pieces_per_word": _share(sums["tokens"], words),
        "characters_per_word": _share(sums["characters"], words),
        "upper_case_characters": _share(sums["upper_case_characters"], sums["characters"]),
        "markup_lines": _share(sums["markup_lines"], sums["lines"]),
        "paragraph_characters": _share(sums["paragraph_characters"], sums["sampled_characters"]),
    }


def document_numbers(sums: Mapping[str, int]) -> dict[str, Any]:
    """What the sums of `measure.document_sums` say."""
    return {
        "documents": sums["documents"],
        "sentences": sums["sentences"],
        "one_sentence_documents": _share(sums["one_sentence_documents"], sums["documents"]),
        "sentences_per_document": _share(sums["sentences"], sums["documents"]),
        "long_sentences": _share(sums["long_sentences"], sums["sentences"]),
    }


def example_numbers(
    objective: str,
    max_seq_length: int,
    lengths: Mapping[str, Sequence[int]],
    random: Mapping[str, int],
    *,
    masked_rate: float = 0.15,
    max_predictions: int | None = None,
) -> dict[str, Any]:
    """What is known of examples alone.

    Args:
        objective: what they are for, one of `sequences.OBJECTIVES`.
        max_seq_length: tokens of a row.
        lengths: of each split, how many examples have 0, 1, 2, ... tokens, special ones included.
        random: of each split, how many examples have label 1.
        masked_rate: share of tokens to predict.
        max_predictions: how many an example may predict; None: what the rate asks for.
    """
    counts = np.asarray(lengths["train"], np.int64)
    sizes = np.arange(len(counts))
    examples = int(counts.sum())
    edges = [max_seq_length * (place + 1) // _LENGTH_BINS for place in range(_LENGTH_BINS)]
    bins = np.bincount(np.searchsorted(edges, sizes), weights=counts, minlength=_LENGTH_BINS)
    wanted = np.maximum(1, np.round(sizes * masked_rate)) * counts
    budget = counts * (max_seq_length if max_predictions is None else max_predictions)
    return {
        "objective": objective,
        "max_seq_length": max_seq_length,
        "examples": {split: int(sum(each)) for split, each in lengths.items()},
        "padding": _share(
            examples * max_seq_length - int(counts @ sizes), examples * max_seq_length
        ),
        "lengths": {
            f"up to {edge}": _share(int(count), examples)
            for edge, count in zip(edges, bins, strict=False)
        },
        "label_1": None
        if objective == "mlm"
        else {split: _share(count, sum(lengths[split])) for split, count in random.items()},
        "max_predictions": max_predictions,
        "predictions_cut": _share(int(np.maximum(wanted - budget, 0).sum()), int(wanted.sum())),
    }


def repeat_numbers(train: Repeats, held_out: Repeats, bits: int) -> dict[str, Any]:
    """What sentences stand in the text more than once, and in held-out and training text.

    Args:
        train: hashes of the training sentences (see `measure.sentence_hashes`).
        held_out: of the held-out ones.
        bits: of the hashes' sample.
    """
    both = Repeats.merged([train, held_out])
    by_machine = _by_machine(both, bits)
    others = both.counts[~by_machine]
    trained = np.isin(held_out.hashes, train.hashes, assume_unique=True)
    return {
        "compared": "all" if bits == 0 else f"one in {1 << bits}, chosen by a hash of the sentence",
        "compared_sentences": both.total,
        "repeated_sentences": _share(int(others.sum()) - len(others), both.total),
        "boilerplate_times": int(both.counts[by_machine].max()) if by_machine.any() else 0,
        "boilerplate_sentences": _share(int(both.counts[by_machine].sum()), both.total),
        "held_out_in_train": _share(int(held_out.counts[trained].sum()), held_out.total),
    }


def repeated_hashes(finding: str, train: Repeats, held_out: Repeats, bits: int) -> np.ndarray:
    """The hashes of the sentences that a finding is about, if it is about repeated ones."""
    if finding == "held_out_in_train":
        return np.intersect1d(train.hashes, held_out.hashes)
    both = Repeats.merged([train, held_out])
    by_machine = _by_machine(both, bits)
    if finding == "boilerplate":
        return both.hashes[by_machine]
    if finding == "repeated_sentences":
        return both.hashes[(both.counts > 1) & ~by_machine]
    return np.zeros(0, np.uint64)


def _by_machine(sentences: Repeats, bits: int) -> np.ndarray:
    """Which sentences are so frequent that nobody wrote them all: bool [distinct]."""
    in_the_text = sentences.total << bits  # as far as the sample tells
    return sentences.counts >= max(BOILERPLATE_TIMES, BOILERPLATE_SHARE * in_the_text)


def _share(part: float, whole: float) -> float:
    return round(part / whole, _LISTED_SHARE) if whole else 0.0


def as_example(where: str, text: str) -> str:
    """An example as it stands in a sentence."""
    text = text.replace('"', "'")
    return f' (for example {where}: "{text}")'


# Words ------------------------------------------------------------------------------------------


def judge(numbers: Mapping[str, Any], example: Example) -> tuple[Finding, ...]:
    """The warnings that numbers give; those that are not known give none.

    Args:
        numbers: from the functions above.
        example: an example in the text for a kind of finding.
    """
    return tuple(
        finding
        for check in (_of_documents, _of_the_vocabulary, _of_the_lines, _of_repeats, _of_examples)
        for finding in check(numbers, example)
    )


def _of_documents(numbers: Mapping[str, Any], example: Example) -> Iterable[Finding]:
    single, mean = (
        numbers.get("one_sentence_documents", 0),
        numbers.get("sentences_per_document", 0),
    )
    if single > ONE_SENTENCE_DOCUMENTS:
        every = "Every document has" if single == 1 else f"{single:.0%} of the documents have"
        consequence = {
            "nsp": "a document of one sentence gives only pairs with a random B",
            "sop": "a document of one sentence has no order to learn",
            "mlm": "every example ends with its document, and the rest of the row is padding",
        }[numbers["objective"]]
        yield Finding(
            "one_sentence_documents",
            f"{every} one sentence: is there a blank line after each line? It should stand between "
            f"documents (articles, chapters) only, because {consequence}.",
        )
    if mean > SENTENCES_PER_DOCUMENT:
        yield Finding(
            "few_documents",
            f"A document has {mean:,.0f} sentences on average: are blank lines missing? Put one "
            "after each article or chapter: held-out text and random next sentences are drawn by "
            "documents, and there are only "
            f"{numbers['documents']:,}.",
        )


def _of_the_vocabulary(numbers: Mapping[str, Any], example: Example) -> Iterable[Finding]:
    train = "train one on this text (bertjax tokenizer train)"
    if (unknown := numbers.get("unknown_tokens", 0)) > UNKNOWN_TOKENS:
        yield Finding(
            "unknown_tokens",
            f"{unknown:.1%} of the tokens are [UNK], all words that the vocabulary can't write"
            f"{example('unknown_tokens')}: it does not fit this text; give a vocabulary of the text's "
            f"language and script, or {train}.",
        )
    pieces = numbers.get("pieces_per_word", 0)
    has_blanks = numbers.get("characters_per_word", 0) < CHARACTERS_PER_WORD
    if pieces > PIECES_PER_WORD and has_blanks:
        yield Finding(
            "pieces_per_word",
            f"The vocabulary cuts a word into {pieces:.1f} pieces on average, where 1.2 to 2 are "
            "usual: it was made for another language, or the text is in capitals; give a "
            f"vocabulary of the text's language and case, or {train}.",
        )


def _of_the_lines(numbers: Mapping[str, Any], example: Example) -> Iterable[Finding]:
    if (upper := numbers.get("upper_case_characters", 0)) > UPPER_CASE_CHARACTERS:
        yield Finding(
            "upper_case",
            f"{upper:.0%} of the text is in capitals only{example('upper_case')}: was the case "
            "lost before it came here? Take the original text; an uncased vocabulary reads "
            "capitals as small letters, a cased one cuts them into pieces.",
        )
    if (markup := numbers.get("markup_lines", 0)) > MARKUP_LINES:
        yield Finding(
            "markup",
            f"{markup:.1%} of the lines hold markup (HTML tags or entities, wiki links)"
            f"{example('markup')}: a model would learn to write it; extract the plain text first.",
        )
    if (paragraphs := numbers.get("paragraph_characters", 0)) > PARAGRAPH_CHARACTERS:
        yield Finding(
            "paragraphs",
            f"{paragraphs:.0%} of the text is in lines of several sentences"
            f"{example('paragraphs')}: are these paragraphs? Put one sentence on a line, as "
            'examples are cut where lines end, or give .jsonl files with {"text": "..."} on a '
            "line, whose sentences are found for you.",
        )
    long = numbers.get("long_sentences", 0)
    if long > LONG_SENTENCES and numbers["objective"] != "mlm":  # which cuts nothing off
        yield Finding(
            "long_sentences",
            f"{long:.0%} of the sentences are longer than an example of "
            f"{numbers['max_seq_length']} tokens, and what does not fit is dropped"
            f"{example('long_sentences')}: put one sentence on a line, or prepare with a larger "
            "--max-seq-length.",
        )


def _of_repeats(numbers: Mapping[str, Any], example: Example) -> Iterable[Finding]:
    compared = numbers.get("compared", "all")
    how = "" if compared == "all" else f" (estimated from {compared})"
    if (repeated := numbers.get("repeated_sentences", 0)) > REPEATED_SENTENCES:
        yield Finding(
            "repeated_sentences",
            f"{repeated:.1%} of the sentences are copies of others{how}{example('repeated_sentences')}: is a "
            "file there twice, or each line? Repeated text is learned by heart and wastes the time "
            "of training; leave the copies out.",
        )
    if times := numbers.get("boilerplate_times", 0):
        yield Finding(
            "boilerplate",
            f"The same sentence stands there {times:,} times{example('boilerplate')}: headers, "
            "footers, licences and menus are no text to learn from; take such lines out.",
        )
    if (overlap := numbers.get("held_out_in_train", 0)) > HELD_OUT_IN_TRAIN:
        yield Finding(
            "held_out_in_train",
            f"{overlap:.1%} of the held-out sentences are in the training text too{how}"
            f"{example('held_out_in_train')}: the held-out loss will look better than it is; documents that "
            "are there twice, or nearly so, cause this: leave the copies out.",
        )


def _of_examples(numbers: Mapping[str, Any], example: Example) -> Iterable[Finding]:
    if same := numbers.get("same_document_pairs", 0):
        yield Finding(
            "same_document_pairs",
            f"{same:,} pairs that are labelled random take B from A's own document: their labels "
            "teach the opposite of the truth; do not train on these examples.",
        )
    yield from _of_labels(numbers)
    if (padding := numbers.get("padding", 0)) > PADDING:
        yield Finding(
            "padding",
            f"{padding:.0%} of the training rows is padding, which costs as much time as text: "
            f"prepare with a --max-seq-length below {numbers['max_seq_length']}, or give longer "
            "documents.",
        )
    if (cut := numbers.get("predictions_cut", 0)) > PREDICTIONS_CUT:
        yield Finding(
            "predictions_cut",
            f"{cut:.1%} of the words that should be predicted are left out, because an example "
            f"predicts {numbers['max_predictions']} at most: allow 15% of max_seq_length, which is "
            f"{round(0.15 * numbers['max_seq_length'])}.",
        )


def _of_labels(numbers: Mapping[str, Any]) -> Iterable[Finding]:
    # Of documents of one sentence all pairs are random, which has been said.
    if numbers.get("one_sentence_documents", 0) > ONE_SENTENCE_DOCUMENTS:
        return
    objective = numbers.get("objective")
    margin = ORDER_MARGIN if objective == "sop" else NEXT_SENTENCE_MARGIN
    for split, share in (numbers.get("label_1") or {}).items():
        examples = numbers["examples"][split]
        chance = _STANDARD_ERRORS * 0.5 / max(examples, 1) ** 0.5
        if examples and abs(share - 0.5) > margin + chance:
            meaning = "A and B are swapped" if objective == "sop" else "B is random"
            yield Finding(
                "labels",
                f"{share:.1%} of the {_SPLIT_WORDS[split]} examples have label 1 ({meaning}), "
                "where about half should: a model learns to guess the commoner label; are the "
                "labels those that were written, and is there a blank line after each document?",
            )
