"""Tests of findings: each injected fault is found, and nothing else; a healthy text has none."""

import dataclasses
import shutil

import numpy as np
import pytest
from etils import epath

from bertjax.data import pairs, shards
from bertjax.data.audit import findings, measure
from bertjax.data.audit.report import FILE, read_report
from bertjax.data.audit.shards import audit_shards
from bertjax.data.prepare import token_store
from bertjax.data.prepare.run import PrepareConfig, prepare

NOVELS = ("Burnett_Lord_1886", "Kipling_Kim_1901", "Lawrence_Peacock_1911", "Lee_Penelope_1903")
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


@pytest.fixture(scope="module", params=["made", pytest.param("novels", marks=pytest.mark.data)])
def healthy(request, tmp_path_factory):
    """A healthy text, and the directory of its tokenizer."""
    tokenizer = tmp_path_factory.mktemp("tokenizer")
    if request.param == "novels":
        data = request.getfixturevalue("data_dir")
        directory = tmp_path_factory.mktemp("novels")
        shutil.unpack_archive(data / "pretrain" / "novels.tar.xz", directory, filter="data")
        text = {
            f"{name}.txt": [
                document.splitlines()
                for document in (directory / "train" / f"{name}.txt").read_text().split("\n\n")
            ]
            for name in NOVELS
        }
        shutil.copy(data / "vocab" / "bert-base-uncased-vocab.txt", tokenizer / "vocab.txt")
        return text, tokenizer
    text, words = request.getfixturevalue("english")
    pieces = [*SPECIALS, *words, *'.<>/="', *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    (tokenizer / "vocab.txt").write_text("\n".join(dict.fromkeys(pieces)))
    return text, tokenizer


@pytest.fixture
def prepared(write_corpus, tmp_path, log):
    """Prepares a text; returns the directory of its shards and its report."""

    def run(text, tokenizer, name="corpus", **fields):
        fields = {"dupe_factor": 2, "processes": 1, **fields}
        corpus = write_corpus(text, name)
        output = epath.Path(tmp_path / f"{name}-shards")
        prepare(PrepareConfig((str(corpus),), str(tokenizer), str(output), **fields), log)
        report = read_report(output)
        said = [line for line in log.lines if line.startswith("Warning: ")]
        assert said == [f"Warning: {finding.sentence}" for finding in report.findings]
        log.lines.clear()
        return output, report

    return run


def names(report):
    return {finding.name for finding in report.findings}


def says(report, name):
    (found,) = [finding.sentence for finding in report.findings if finding.name == name]
    return found


def each_line(text, change):
    return {file: [[change(line) for line in d] for d in docs] for file, docs in text.items()}


# Healthy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("segments", ["next_sentence", "single", "sentence_order"])
def test_a_healthy_text_gives_no_warning(healthy, prepared, segments, log):
    output, report = prepared(*healthy, segments=segments)
    assert names(report) == set()
    assert report.numbers["documents"] == sum(map(len, healthy[0].values()))
    # Its shards give none either, with and without the report of preparing beside them.
    for _ in range(2):
        assert names(audit_shards(output)) == set()
        (output / FILE).unlink(missing_ok=True)


# Faults of the text -----------------------------------------------------------------------------


def blank_line_after_every_line(text):
    return {file: [[line] for lines in docs for line in lines] for file, docs in text.items()}


def no_blank_lines(text):
    lines = [line for docs in text.values() for document in docs for line in document]
    return {f"{part}.txt": [lines[part::4]] for part in range(4)}


def every_line_twice(text):
    return {
        file: [[line for line in lines for _ in range(2)] for lines in docs]
        for file, docs in text.items()
    }


def markup(text):
    return each_line(text, lambda line: line if len(line) % 10 else f'<p class="a">{line}</p>')


def capitals(text):
    return each_line(text, str.upper)


def paragraphs(text):
    return {
        file: [[" ".join(lines[i : i + 8]) for i in range(0, len(lines), 8)] for lines in docs]
        for file, docs in text.items()
    }


def footers(text):
    (first, *_), *_ = text.values()
    words = first[0].split()
    footer = " ".join(reversed((words * 12)[:12]))
    return {file: [[*lines, footer] for lines in docs] for file, docs in text.items()}


TEXT_FAULTS = {
    # fault: (its finding, findings that may accompany it, words of the warning)
    blank_line_after_every_line: (
        "one_sentence_documents",
        set(),
        "100% of the documents have one sentence: is there a blank line after each line?",
    ),
    no_blank_lines: ("few_documents", set(), "are blank lines missing?"),
    every_line_twice: ("repeated_sentences", set(), "is a file there twice, or every line?"),
    markup: (
        "markup",
        set(),
        "of the lines contain markup (HTML tags or entities, wiki links) (for example ",
    ),
    capitals: ("upper_case", set(), "100% of the text is in lines of capitals only"),
    paragraphs: ("paragraphs", {"long_sentences"}, "are these paragraphs?"),
    footers: ("boilerplate", set(), "remove such lines"),
}


@pytest.mark.parametrize("fault", TEXT_FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_of_the_text_is_named(healthy, prepared, fault):
    text, tokenizer = healthy
    name, follows, words = TEXT_FAULTS[fault]
    _, report = prepared(fault(text), tokenizer)
    assert name in names(report) and names(report) <= {name, *follows}
    assert words in says(report, name)


def test_an_example_is_named_by_its_line(healthy, prepared, tmp_path):
    text, tokenizer = healthy
    lines = [line for docs in markup(text).values() for lines in docs for line in (*lines, "")]
    corpus = [
        *lines[:1000],
        "",
        *lines[1000:],
    ]  # two empty lines begin one document
    _, report = prepared({"all.txt": [corpus]}, tokenizer)
    (number, line), *_ = [
        (number, line) for number, line in enumerate(corpus, 1) if line.startswith("<p ")
    ]
    place = f"{tmp_path / 'corpus' / 'all.txt'}:{number}"
    quoted = f"{line[:100]}{'...' if len(line) >= 100 else ''}".replace("'", "’")
    assert f"(for example {place}: '{quoted}')" in says(report, "markup")


def test_held_out_text_that_is_trained_on_too(healthy, prepared):
    text, tokenizer = healthy

    def is_held_out(file, place):
        return token_store._hashes(12345, (file, 0, place), 1)[0] < 0.1 * 2**64

    held_out = [
        document
        for file, docs in enumerate(text.values())
        for place, document in enumerate(docs)
        if is_held_out(file, place)
    ]
    assert 2 <= len(held_out) < 0.3 * sum(map(len, text.values()))
    # A file behind the others does not change their hashes. Its document is trained on.
    assert not is_held_out(len(text), 0)
    more = {"zzz.txt": [[line for document in held_out for line in document]]}
    output, report = prepared({**text, **more}, tokenizer, held_out=0.1, seed=12345)
    assert "held_out_in_train" in names(report)
    assert names(report) <= {"held_out_in_train", "repeated_sentences"}
    assert report.numbers["held_out_in_train"] > 0.9
    assert "100.0% of the held-out text" in says(report, "held_out_in_train")
    (output / FILE).unlink()
    of_shards = audit_shards(output)
    assert "held_out_in_train" in names(of_shards)


def test_a_vocabulary_of_another_script_or_language(healthy, prepared, tmp_path):
    text, _ = healthy
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join([*SPECIALS, *"абвгдежзийклмнопрстуфхцчшщъыьэюя"]))
    _, report = prepared(text, vocabulary)
    assert names(report) == {"unknown_tokens"}
    assert "train one on this text" in says(report, "unknown_tokens")

    letters = [*map(chr, range(ord("!"), ord("~") + 1))]
    vocabulary.write_text("\n".join([*SPECIALS, *letters, *(f"##{each}" for each in letters)]))
    _, report = prepared(text, vocabulary, "letters")
    assert "pieces_per_word" in names(report)
    assert names(report) <= {"pieces_per_word", "long_sentences", "repeated_sentences"}


@pytest.mark.parametrize("spaced", [False, True])
def test_words_without_spaces_are_not_of_another_language(prepared, tmp_path, spaced):
    """Chinese sentences of few characters, and the same text as words of letters."""
    letters = "我你他她它是在有和人" if not spaced else "abcdefghij"
    rng = np.random.default_rng(0)
    lines = [["".join(rng.choice([*letters], rng.integers(6, 14))) + "." for _ in range(8)]]
    lines += [["".join(rng.choice([*letters], 9)) + "." for _ in range(8)] for _ in range(150)]
    tokens = [*SPECIALS, ".", *letters, *(f"##{letter}" for letter in letters)]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    _, report = prepared({"a.txt": lines}, tmp_path / "vocab.txt")
    assert report.numbers["characters_per_word"] < 12 and report.numbers["pieces_per_word"] > 6
    assert ("pieces_per_word" in names(report)) is spaced


def test_unknown_words_of_wikitext_are_no_markup():
    for line, found in (("the <unk> of a", 0), ("the <unk> </b>", 1), ("<unknown>", 1)):
        sums = measure.TextSums(1)
        sums.add([(0, [line])], np.zeros(1, np.int32), np.array([0, 1]))
        assert sums.sums["markup_lines"] == found


def test_a_random_b_of_the_same_document(healthy, prepared, monkeypatch):
    def from_the_same(documents, *, owner, wanted, rng):
        begin, end = documents.document_offsets[owner], documents.document_offsets[owner + 1]
        first = begin + (rng.random(len(owner)) * (end - begin)).astype(np.int64)
        return first, first + 1

    monkeypatch.setattr(pairs, "_random_b", from_the_same)
    _, report = prepared(*healthy)
    random = report.numbers["label_1"]["train"] * report.numbers["examples"]["train"]
    assert "same_document_pairs" in names(report)
    assert names(report) <= {"same_document_pairs", "padding"}
    assert report.numbers["same_document_pairs"] >= random - 1


def test_rows_that_are_mostly_padding(healthy, prepared):
    text, tokenizer = healthy
    short = {
        file: [lines[i : i + 3] for lines in docs for i in range(0, len(lines) - 2, 3)]
        for file, docs in text.items()
    }
    _, report = prepared(short, tokenizer, max_seq_length=512)
    assert names(report) == {"padding"}


# Faults of shards -------------------------------------------------------------------------------


@pytest.fixture
def changed(prepared):
    """Prepares a text, changes its records, and returns the audit of the new shards.

    The manifest is made to fit the files, and its share of label 1 if `and_share`.
    """

    def run(healthy, change, *, and_share=False):
        directory, before = prepared(*healthy)
        assert names(before) == set()
        manifest = shards.read_manifest(directory)
        files = {}
        for split in shards.SPLITS:
            files[split] = []
            for file in manifest.files[split]:
                reader = shards.open_records(directory / file.name)
                found = [
                    shards.decode_pair(record) for record in reader.read([*range(file.examples)])
                ]
                reader.close()
                records = [encoded(change(number, pair)) for number, pair in enumerate(found)]
                files[split].append(shards.write_records(directory / file.name, records))
        manifest = dataclasses.replace(
            manifest, files={split: tuple(rows) for split, rows in files.items()}
        )
        if and_share:
            manifest = dataclasses.replace(
                manifest, label_1_share=and_share(manifest.label_1_share)
            )
        (directory / shards.MANIFEST).write_text(manifest.to_json())
        return audit_shards(directory)

    return run


def encoded(pair):
    a, b = (side.astype("<u2").tobytes() for side in (pair.a, pair.b))
    return shards.encode_bytes(a, b, is_random=pair.is_random, wide=False)


def test_swapped_labels(healthy, changed):
    report = changed(
        healthy,
        lambda number, pair: pair._replace(is_random=not pair.is_random),
        and_share=lambda share: round(1 - share, 6),
    )
    assert names(report) == {"labels_contradict_the_text"}
    assert "are the labels swapped?" in says(report, "labels_contradict_the_text")


def test_labels_that_are_all_the_same(healthy, changed):
    report = changed(healthy, lambda number, pair: pair._replace(is_random=False))
    assert names(report) == {"label_shares", "labels_changed"}
    assert "0.0% of the training" in says(report, "label_shares")


def test_ids_beyond_the_vocabulary(healthy, changed):
    def change(number, pair):
        return pair._replace(a=np.append(pair.a[:-1], 60_000)) if number == 17 else pair

    report = changed(healthy, change)
    assert names(report) == {"ids_out_of_range"}
    first = "train-00000-00-000.array_record, record 17)"
    assert first in says(report, "ids_out_of_range")


def test_damaged_records_are_counted_and_the_first_is_named(healthy, prepared):
    directory, _ = prepared(*healthy)
    file = shards.read_manifest(directory).files["train"][0]
    reader = shards.open_records(directory / file.name)
    reader.seek(23)
    record = reader.read()
    reader.close()
    data = bytearray((directory / file.name).read_bytes())
    place = data.index(record)
    data[place + 8] ^= 0xFF
    (directory / file.name).write_bytes(data)
    report = audit_shards(directory)
    assert names(report) == {"damaged_records"}
    assert f"1 of {sum(report.numbers['examples'].values()) + 1:,} records" in says(
        report, "damaged_records"
    )
    assert f"{file.name}, record 23" in says(report, "damaged_records")


def test_repeated_text_is_seen_in_shards_alone(healthy, prepared):
    text, tokenizer = healthy
    twice = {**text, **{f"copy-{file}": docs for file, docs in text.items()}}
    output, report = prepared(twice, tokenizer)
    assert names(report) == {"repeated_sentences", "held_out_in_train"}
    (output / FILE).unlink()
    report = audit_shards(output)
    assert names(report) == {"repeated_text", "held_out_in_train"}
    assert 1.5 < report.numbers["repeated_text"] < 2.2


def test_predictions_that_a_budget_cuts(healthy, prepared):
    output, _ = prepared(*healthy)
    assert names(audit_shards(output, 20)) == set()
    report = audit_shards(output, 10)
    assert names(report) == {"predictions_cut"}
    assert "which is 19." in says(report, "predictions_cut")


# The table --------------------------------------------------------------------------------------

NUMBERS = {
    **dict.fromkeys(("damaged_records", "ids_out_of_range", "one_sentence_documents"), 0),
    **dict.fromkeys(("sentences_per_document", "unknown_tokens", "upper_case_characters"), 0),
    **dict.fromkeys(("markup_lines", "paragraph_characters", "long_sentences"), 0),
    **dict.fromkeys(("repeated_sentences", "repeated_text", "boilerplate_times"), 0),
    **dict.fromkeys(("held_out_in_train", "same_document_pairs", "random_that_follows"), 0),
    **dict.fromkeys(("padding", "predictions_cut", "documents"), 0),
    "pieces_per_word": 1.3,
    "characters_per_word": 4.0,
    "unspaced_characters": 0.0,
    "segments": "next_sentence",
    "max_seq_length": 128,
    "max_predictions": 20,
    "vocab_size": 100,
    "examples": {"train": 10_000, "held_out": 1000},
    "label_1": {"train": 0.5, "held_out": 0.5},
}


@pytest.mark.parametrize("rule", findings._RULES, ids=lambda rule: rule.name)
def test_a_number_above_its_limit_is_a_finding(rule):
    assert findings.judge(NUMBERS, lambda name: "") == ()
    number = rule.number or rule.name
    above = {**NUMBERS, number: rule.limit + 0.09}
    if number == "splits_off_balance":
        above = {**NUMBERS, "label_1": {"train": 0.9, "held_out": 0.5}}
    (found,) = findings.judge(above, lambda name: f" (for example {name})")
    assert found.name == rule.name and "{" not in found.sentence.replace('{"text"', "")
    assert ("{example}" in rule.sentence) == (f"(for example {rule.name})" in found.sentence)


def test_unknown_numbers_give_no_finding():
    known = ("segments", "max_seq_length", "examples")
    assert findings.judge({name: NUMBERS[name] for name in known}, lambda name: "") == ()
