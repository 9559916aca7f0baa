"""What numbers about a text and its examples mean, in words: where a number becomes a warning, why
there, and what the warning says.

`audit.py` makes the numbers; a number that is not known gives no warning.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from bertjax.data.segments import SEGMENTS

# "The novels" are 87 English novels, a sentence a line and a blank line after a chapter, with
# BERT's own uncased vocabulary: what a healthy text looks like.

# Short documents among others are normal; most of them mean a misplaced blank line. None of the
# novels' has one sentence.
ONE_SENTENCE_DOCUMENTS = 0.5
# A long article has some hundred sentences, a chapter of the novels 175; a whole novel 7,000.
SENTENCES_PER_DOCUMENT = 1000
# Vocabularies that fit leave far less: BERT's own 0.001% of the novels, a SentencePiece vocabulary
# by its character coverage 0.05%.
UNKNOWN_TOKENS = 0.01
# Where so many words are [UNK], different sentences look the same.
UNKNOWN_TOKENS_COMPARED = 0.1
# The novels have 1.3; languages of long words 2, with a vocabulary of theirs.
PIECES_PER_WORD = 3.0
# Longer words are not separated by blanks (Chinese, Thai), and pieces a word mean nothing.
CHARACTERS_PER_WORD = 15.0
# Headings are in capitals in any text: 0.1% of the novels' lines.
UPPER_CASE_CHARACTERS = 0.5
# A < or an & alone is not counted, and no line of the novels is.
MARKUP_LINES = 0.005
# Of the characters, in lines with three ends of sentences inside: below 1% of the novels, and most
# of them once their paragraphs are lines.
PARAGRAPH_CHARACTERS = 0.2
# 0.3% of the novels' sentences are longer than 125 tokens, 5% longer than 61.
LONG_SENTENCES = 0.1
# A row that is mostly padding costs twice what it is worth.
PADDING = 0.5
# Of a few hundred examples a share says little: so many standard errors are chance.
STANDARD_ERRORS = 4.0
# 0.08% of the novels' sentences of 8 tokens or more. Lee et al. (2022, "Deduplicating Training Data
# Makes Language Models Better") find that models recite what they saw repeated.
REPEATED_SENTENCES = 0.02
# Runs of tokens against the times that the examples show each token of the text on average.
REPEATED_TEXT = 1.25
# A sentence that is a thousandth of a text, and there so often, was put there by a machine: the
# most frequent one of the novels is a 25,000th.
BOILERPLATE_SHARE, BOILERPLATE_TIMES = 0.001, 20
# Phrases that recur: 0.2% of the novels' held-out runs of 12 tokens.
HELD_OUT_IN_TRAIN = 0.01
# Google's share of tokens to predict; its 20 for 128 tokens cuts none of them.
MASKED_RATE = 0.15
PREDICTIONS_CUT = 0.01
# Of the places where a random B begins, how many continue A elsewhere: phrases that recur.
RANDOM_THAT_FOLLOWS = 0.05

_SPLITS = {"train": "training", "held_out": "held-out"}
_TRAIN_ONE = "train one on this text (bertjax tokenizer train)"

Example = Callable[[str], str]
"""For the name of a finding: ' (for example FILE:LINE: "...")', or nothing if there is none."""


class Finding(NamedTuple):
    """One warning."""

    name: str
    """Of the fault."""
    says: str
    """What is wrong, with its number and an example, and what to do."""


def as_example(where: str, text: str = "") -> str:
    """An example as it stands in a sentence."""
    quoted = ": '{}'".format(text.replace("'", "’")) if text else ""
    return f" (for example {where}{quoted})"


def judge(numbers: Mapping[str, Any], example: Example) -> tuple[Finding, ...]:
    """The warnings that numbers give.

    Args:
        numbers: of `audit.py`, with the segments and max_seq_length.
        example: an example in the data of a finding.
    """
    checks = (_damage, _documents, _vocabulary, _lines, _repeats, _labels, _rows)
    return tuple(Finding(name, says) for check in checks for name, says in check(numbers, example))


_Said = Iterable[tuple[str, str]]


def _damage(numbers: Mapping[str, Any], example: Example) -> _Said:
    if damaged := numbers.get("damaged_records", 0):
        yield (
            "damaged_records",
            f"{damaged:,} of {sum(numbers['examples'].values()) + damaged:,} records can't be read"
            f"{example('damaged_records')}: copy these files again from where they were made, or "
            "prepare again into another directory.",
        )
    if outside := numbers.get("ids_out_of_range", 0):
        yield (
            "ids_out_of_range",
            f"{outside:,} examples have ids that the vocabulary of {numbers['vocab_size']:,} "
            f"tokens does not have{example('ids_out_of_range')}: they were made with another "
            "vocabulary, or are damaged; prepare them again with the one that is meant.",
        )


def _documents(numbers: Mapping[str, Any], example: Example) -> _Said:
    if _has_single_sentences(numbers):
        single = numbers["one_sentence_documents"]
        every = "Every document has" if single == 1 else f"{single:.0%} of the documents have"
        because = SEGMENTS[numbers["segments"]].why_not_one_sentence
        yield (
            "one_sentence_documents",
            f"{every} one sentence: is there a blank line after each line? It should stand between "
            f"documents (articles, chapters) only, because {because}.",
        )
    if (sentences := numbers.get("sentences_per_document", 0)) > SENTENCES_PER_DOCUMENT:
        yield (
            "few_documents",
            f"The text is {numbers['documents']:,} documents of {sentences:,.0f} sentences on "
            "average: are blank lines missing? Put one after each article or "
            "chapter, because held-out text is chosen, and a random B taken, by documents.",
        )


def _has_single_sentences(numbers: Mapping[str, Any]) -> bool:
    return numbers.get("one_sentence_documents", 0) > ONE_SENTENCE_DOCUMENTS


def _vocabulary(numbers: Mapping[str, Any], example: Example) -> _Said:
    if (unknown := numbers.get("unknown_tokens", 0)) > UNKNOWN_TOKENS:
        yield (
            "unknown_tokens",
            f"{unknown:.1%} of the tokens are [UNK], for words that the vocabulary can't write"
            f"{example('unknown_tokens')}: it does not fit this text; give a vocabulary of the "
            f"text's language and script, or {_TRAIN_ONE}.",
        )
    pieces = numbers.get("pieces_per_word", 0)
    if pieces > PIECES_PER_WORD and numbers["characters_per_word"] < CHARACTERS_PER_WORD:
        yield (
            "pieces_per_word",
            f"The vocabulary cuts a word into {pieces:.1f} pieces on average, where 1.2 to 2 are "
            "usual: it was made for another language, or for text that is not in capitals; give a "
            f"vocabulary of the text's language and case, or {_TRAIN_ONE}.",
        )


def _lines(numbers: Mapping[str, Any], example: Example) -> _Said:
    if (upper := numbers.get("upper_case_characters", 0)) > UPPER_CASE_CHARACTERS:
        yield (
            "upper_case",
            f"{upper:.0%} of the text is in lines of capitals only{example('upper_case')}: was its "
            "case lost on the way? Take the original text. (An uncased vocabulary reads capitals "
            "as small letters and learns from them as well; a cased one cuts them into pieces.)",
        )
    if (markup := numbers.get("markup_lines", 0)) > MARKUP_LINES:
        yield (
            "markup",
            f"{markup:.1%} of the lines hold markup (HTML tags or entities, wiki links)"
            f"{example('markup')}: the model would learn to write it; take the plain text out "
            "first.",
        )
    if (paragraphs := numbers.get("paragraph_characters", 0)) > PARAGRAPH_CHARACTERS:
        yield (
            "paragraphs",
            f"{paragraphs:.0%} of the text is in lines of several sentences"
            f"{example('paragraphs')}: are these paragraphs? Put one sentence on a line, because "
            'examples begin and end where lines do; or give .jsonl files, {"text": "..."} a line, '
            "whose sentences are found for you.",
        )
    long = numbers.get("long_sentences", 0)
    # Single sequences drop no text.
    if long > LONG_SENTENCES and SEGMENTS[numbers["segments"]].is_pair:
        yield (
            "long_sentences",
            f"{long:.0%} of the sentences are longer than an example of "
            f"{numbers['max_seq_length']} tokens, and what does not fit is dropped"
            f"{example('long_sentences')}: put one sentence on a line, or prepare with a larger "
            "--max-seq-length.",
        )


def _repeats(numbers: Mapping[str, Any], example: Example) -> _Said:
    if numbers.get("unknown_tokens", 0) > UNKNOWN_TOKENS_COMPARED:
        return
    compared = numbers.get("compared", "all")
    how = "" if compared == "all" else f" (an estimate from {compared})"
    if (repeated := numbers.get("repeated_sentences", 0)) > REPEATED_SENTENCES:
        yield (
            "repeated_sentences",
            f"{repeated:.1%} of the sentences are copies of others{how}"
            f"{example('repeated_sentences')}: is a file there twice, or every line? The model "
            "learns repeated text by heart, which is time lost; leave the copies out.",
        )
    if (more := numbers.get("repeated_text") or 0) > REPEATED_TEXT:
        yield (
            "repeated_text",
            f"The same runs of words come {more:.1f} times as often in the examples as the passes "
            f"over the text explain{how}: does the text hold the same documents twice? The model "
            "learns repeated text by heart, which is time lost; leave the copies out and prepare "
            "again.",
        )
    if times := numbers.get("boilerplate_times", 0):
        yield (
            "boilerplate",
            f"One sentence is there {times:,} times{example('boilerplate')}: headers, footers, "
            "menus and licences are no text to learn from; take such lines out.",
        )
    if (overlap := numbers.get("held_out_in_train", 0)) > HELD_OUT_IN_TRAIN:
        yield (
            "held_out_in_train",
            f"{overlap:.1%} of the held-out text is in the training text too{how}"
            f"{example('held_out_in_train')}: the held-out loss will look better than it is; are "
            "documents there twice, or nearly so? Leave the copies out.",
        )


def _labels(numbers: Mapping[str, Any], example: Example) -> _Said:
    if same := numbers.get("same_document_pairs", 0):
        yield (
            "same_document_pairs",
            f"{same:,} pairs that are labelled random take B from A's own document: such labels "
            "teach what is not so; do not train on these examples, and report this as a bug.",
        )
    if (follows := numbers.get("random_that_follows") or 0) > RANDOM_THAT_FOLLOWS:
        yield (
            "labels_contradict_the_text",
            f"In {follows:.0%} of the pairs with label 1, B continues A elsewhere in the text, "
            "where it should in none (label 1: not the next sentence, or the wrong order): are the "
            "labels swapped? Prepare the text again, or give label 0 to what follows.",
        )
    if (written := numbers.get("label_1_in_manifest")) is not None:
        yield (
            "labels_changed",
            f"{numbers['label_1']['train']:.1%} of the training examples have label 1, and the "
            f"manifest says {written:.1%}: the shards were changed after `bertjax prepare` wrote "
            "them; prepare the text again.",
        )
    # A chunk of one sentence always takes a random B: why there are so many has been said.
    if not _has_single_sentences(numbers) and numbers.get("long_sentences", 0) <= LONG_SENTENCES:
        yield from _label_shares(numbers)


def _label_shares(numbers: Mapping[str, Any]) -> _Said:
    kind = SEGMENTS[numbers["segments"]]
    wrong = [
        f"{share:.1%} of the {_SPLITS[split]}"
        for split, share in (numbers.get("label_1") or {}).items()
        if (examples := numbers["examples"][split])
        and abs(share - 0.5) > kind.label_margin + STANDARD_ERRORS * 0.5 / examples**0.5
    ]
    if wrong:
        yield (
            "label_shares",
            f"{' and '.join(wrong)} examples have label 1 "
            f"({kind.label}), where about half should: "
            "the model would learn which label is the commoner one; look at the labels where they "
            "were made, and whether a line is a sentence and blank lines stand between documents "
            "only.",
        )


def _rows(numbers: Mapping[str, Any], example: Example) -> _Said:
    if (padding := numbers.get("padding", 0)) > PADDING and not _has_single_sentences(numbers):
        yield (
            "padding",
            f"{padding:.0%} of the training rows is padding, which costs as much time as text: "
            f"prepare with a --max-seq-length well below {numbers['max_seq_length']}, or give "
            "longer documents.",
        )
    if (cut := numbers.get("predictions_cut", 0)) > PREDICTIONS_CUT:
        yield (
            "predictions_cut",
            f"{cut:.1%} of the words that should be predicted are not, because an example predicts "
            f"{numbers['max_predictions']} at most: allow {MASKED_RATE:.0%} of max_seq_length, "
            f"which is {round(MASKED_RATE * numbers['max_seq_length'])}.",
        )
