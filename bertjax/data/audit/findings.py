"""The table of findings: which number is a warning above which limit, and the sentence it becomes.

The reasons for limits refer to "the novels": 87 English novels with a sentence per line and a blank
line after each chapter, tokenized with BERT's uncased vocabulary.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from bertjax.data.segments import SEGMENTS

Numbers = Mapping[str, Any]

# A sentence this frequent was inserted by a machine. The most frequent sentence of the novels is
# one in 25,000.
BOILERPLATE_SHARE, MIN_BOILERPLATE = 0.001, 20
# Google masks 15% of the tokens. Its limit of 20 at 128 tokens never cuts any.
MASKED_RATE = 0.15
# Words are not separated by spaces above so many characters per word, or above such a share of
# letters of scripts without spaces (Chinese, Thai).
_MAX_WORD_CHARACTERS, _MAX_UNSPACED = 15.0, 0.3
# With so many unknown tokens, different sentences look the same.
_MAX_UNKNOWN_TO_COMPARE = 0.1
# A share of few examples varies: deviations of up to so many standard errors are chance.
_STANDARD_ERRORS = 4.0
_SPLITS = {"train": "training", "held_out": "held-out"}
_TRAIN_ONE = "train one on this text (bertjax tokenizer train)"
_COPIES = "The model memorizes repeated text, which wastes time; leave the copies out"


class Finding(NamedTuple):
    """One warning: a sentence that says what is wrong, with an example, and what to do."""

    name: str
    sentence: str


class _Rule(NamedTuple):
    """One row of the table."""

    name: str
    limit: float
    sentence: str
    """A format string. Its fields are the numbers, those of `_derived`, and the example."""
    number: str = ""
    """The number that is compared with the limit; by default, the one called `name`. An unknown
    number gives no warning."""
    applies: Callable[[Numbers], bool] = lambda numbers: True
    """A further condition on the numbers."""

    def is_above(self, numbers: Numbers) -> bool:
        """Whether the number is known and above the limit."""
        number = numbers.get(self.number or self.name)
        return number is not None and number > self.limit


def _has_spaces(numbers: Mapping[str, Any]) -> bool:
    spaced = numbers["characters_per_word"] < _MAX_WORD_CHARACTERS
    return spaced and numbers["unspaced_characters"] < _MAX_UNSPACED


def _is_comparable(numbers: Numbers) -> bool:
    return numbers.get("unknown_tokens", 0) <= _MAX_UNKNOWN_TO_COMPARE


_ONE_SENTENCE = _Rule(
    "one_sentence_documents",
    0.5,  # some short documents are normal, though the novels have none with one sentence
    "{one_sentence_documents:.0%} of the documents have one sentence: is there a blank line after "
    "each line? Put blank lines only between documents (articles, chapters), because "
    "{why_not_one_sentence}.",
)
_LONG_SENTENCES = _Rule(
    "long_sentences",
    0.1,  # 0.3% of the novels' sentences have more than 125 tokens, 5% more than 61
    "{long_sentences:.0%} of the sentences are longer than an example of {max_seq_length} tokens, "
    "and the rest of them is dropped{example}: put one sentence on a line, or raise "
    "`max_seq_length`.",
    applies=lambda numbers: SEGMENTS[numbers["segments"]].is_pair,  # single sequences drop nothing
)


_RULES = (
    _Rule(
        "damaged_records",
        0,
        "{damaged_records:,} of {records:,} records can't be read{example}: copy the files again, "
        "or prepare the text again into another directory.",
    ),
    _Rule(
        "ids_out_of_range",
        0,
        "{ids_out_of_range:,} examples have ids outside the vocabulary of {vocab_size:,} tokens"
        "{example}: prepare them again with the right vocabulary.",
    ),
    _ONE_SENTENCE,
    _Rule(
        "few_documents",
        1000,  # a long article has some hundred sentences, a chapter of the novels 175
        "The {documents:,} documents have {sentences_per_document:,.0f} sentences on average: are "
        "blank lines missing? Put one after each article or chapter, because held-out text and "
        "random next sentences are drawn by document.",
        number="sentences_per_document",
    ),
    _Rule(
        "unknown_tokens",
        0.01,  # BERT's own vocabulary gives 0.001% of the novels, SentencePiece 0.05%
        "{unknown_tokens:.1%} of the tokens are [UNK]: the vocabulary can't spell their words"
        f"{{example}}; give one for the text's language and script, or {_TRAIN_ONE}.",
    ),
    _Rule(
        "pieces_per_word",
        3.0,  # the novels have 1.3; languages of long words 2, with a vocabulary of their own
        "The vocabulary splits words into {pieces_per_word:.1f} pieces on average, not 1.2 to 2: "
        "it was made for another language, or for text that is not in capitals; give one for the "
        f"text's language and case, or {_TRAIN_ONE}.",
        applies=_has_spaces,
    ),
    _Rule(
        "upper_case",
        0.5,  # any text has some headings in capitals: 0.1% of the novels' lines
        "{upper_case_characters:.0%} of the text is in lines of capitals only{example}: was its "
        "case lost? Take the original text, unless the vocabulary is uncased.",
        number="upper_case_characters",
    ),
    _Rule(
        "markup",
        0.005,  # no line of the novels; a < or an & alone is not counted
        "{markup_lines:.1%} of the lines contain markup (HTML tags or entities, wiki links)"
        "{example}: the model would learn to write it; extract the plain text first.",
        number="markup_lines",
    ),
    _Rule(
        "paragraphs",
        0.2,  # lines with three inner sentence ends hold below 1% of the novels
        "{paragraph_characters:.0%} of the text is in lines of several sentences{example}: are "
        "these paragraphs? Put one sentence on a line, because examples begin and end at line "
        'ends; or give .jsonl files, whose texts ({{"text": "..."}} per line) are split.',
        number="paragraph_characters",
    ),
    _LONG_SENTENCES,
    _Rule(
        "repeated_sentences",
        # 0.08% of the novels' sentences. Models recite what they saw repeated: Lee et al. (2022),
        # "Deduplicating Training Data Makes Language Models Better".
        0.02,
        "{repeated_sentences:.1%} of the sentences are copies of others{sampling}{example}: is a "
        f"file there twice, or every line? {_COPIES}.",
        applies=_is_comparable,
    ),
    _Rule(
        "repeated_text",
        1.25,  # the occurrences of a run, divided by the passes over the text
        "The examples repeat runs of words {repeated_text:.1f} times as often as the passes over "
        f"the text explain{{sampling}}: are there documents twice? {_COPIES} and prepare again.",
        applies=_is_comparable,
    ),
    _Rule(
        "boilerplate",
        0,
        "One sentence occurs {boilerplate_times:,} times{example}: headers, footers, menus and "
        "licenses teach the model nothing; remove such lines.",
        number="boilerplate_times",
        applies=_is_comparable,
    ),
    _Rule(
        "held_out_in_train",
        0.01,  # recurring phrases: 0.2% of the novels' held-out runs of 12 tokens
        "{held_out_in_train:.1%} of the held-out text is in the training text too{sampling}"
        "{example}: the held-out loss will look too good; leave copies of documents out.",
        applies=_is_comparable,
    ),
    _Rule(
        "same_document_pairs",
        0,
        "{same_document_pairs:,} pairs labeled random take B from the document of A: such labels "
        "are wrong; do not train on these examples, and report this as a bug.",
    ),
    _Rule(
        "labels_contradict_the_text",
        0.05,  # recurring phrases also continue A
        "In {random_that_follows:.0%} of the pairs with label 1 ({label}), B continues A elsewhere "
        "in the text: are the labels swapped? Prepare the text again, or give label 0 to pairs in "
        "which B follows A.",
        number="random_that_follows",
    ),
    _Rule(
        "labels_changed",
        -1.0,  # known only if it differs
        "{label_1[train]:.1%} of the training examples have label 1, but the manifest says "
        "{label_1_in_manifest:.1%}: the shards have changed since `bertjax prepare` wrote them; "
        "prepare the text again.",
        number="label_1_in_manifest",
    ),
    _Rule(
        "label_shares",
        0,
        "{shares_off_balance} examples have label 1 ({label}), where about half should: check the "
        "labels where they were made, that a line is a sentence, and that blank lines stand only "
        "between documents.",
        number="splits_off_balance",
        # A chunk of one sentence always takes a random B; those two findings explain why.
        applies=lambda known: (
            not (_ONE_SENTENCE.is_above(known) or _LONG_SENTENCES.is_above(known))
        ),
    ),
    _Rule(
        "padding",
        0.5,  # such a row costs twice what it is worth
        "{padding:.0%} of the training rows is padding, which costs as much time as text: prepare "
        "with a `max_seq_length` well below {max_seq_length}, give longer documents, or pre-train "
        "on packed rows.",
        applies=lambda numbers: not _ONE_SENTENCE.is_above(numbers),
    ),
    _Rule(
        "predictions_cut",
        0.01,
        "{predictions_cut:.1%} of the words to predict are not, because an example predicts at "
        "most {max_predictions}: allow {masked_rate:.0%} of `max_seq_length`, which is "
        "{masked_tokens}.",
    ),
)


def as_example(where: str, text: str = "") -> str:
    """Returns an example as it stands in a sentence."""
    quoted = ": '{}'".format(text.replace("'", "’")) if text else ""
    return f" (for example {where}{quoted})"


def judge(numbers: Numbers, example: Callable[[str], str]) -> tuple[Finding, ...]:
    """Returns the findings of a report's numbers.

    `example` returns the example of a finding as `as_example` writes it, or an empty string.
    """
    known = {**numbers, **_derived(numbers)}
    return tuple(
        Finding(rule.name, rule.sentence.format(**known, example=example(rule.name)))
        for rule in _RULES
        if rule.is_above(known) and rule.applies(known)
    )


def _derived(numbers: Numbers) -> dict[str, Any]:
    """Returns further fields of the sentences."""
    kind, off_balance = SEGMENTS[numbers["segments"]], []
    for split, share in (numbers.get("label_1") or {}).items():
        chance = _STANDARD_ERRORS * 0.5 / max(numbers["examples"][split], 1) ** 0.5
        if numbers["examples"][split] and abs(share - 0.5) > kind.label_margin + chance:
            off_balance.append(f"{share:.1%} of the {_SPLITS[split]}")
    compared = numbers.get("compared", "all")
    return {
        "records": sum(numbers["examples"].values()) + numbers.get("damaged_records", 0),
        "why_not_one_sentence": kind.why_not_one_sentence,
        "label": kind.label,
        "splits_off_balance": len(off_balance),
        "shares_off_balance": " and ".join(off_balance),
        "sampling": "" if compared == "all" else f" (an estimate from {compared})",
        "masked_rate": MASKED_RATE,
        "masked_tokens": round(MASKED_RATE * numbers["max_seq_length"]),
    }
