"""The audit: each injected fault is named, alone, and a healthy text gives no warning."""

import dataclasses
import functools
import shutil

import numpy as np
import pytest
from etils import epath

from bertjax.data import pairs, shards
from bertjax.data.audit import duplicates, measure
from bertjax.data.audit.report import FILE, is_clean, read_report
from bertjax.data.audit.shards import audit_shards
from bertjax.data.prepare import inspection, token_store
from bertjax.data.prepare.inspection import AuditConfig
from bertjax.data.prepare.run import PrepareConfig, prepare
from bertjax.errors import UserError

NOVELS = ("Burnett_Lord_1886", "Kipling_Kim_1901", "Lawrence_Peacock_1911", "Lee_Penelope_1903")
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"

# A text is files, which are documents, which are lines.
Text = dict[str, list[list[str]]]


@functools.cache
def made_up_text() -> tuple[Text, list[str]]:
    """English by its looks, in four files of 40 documents; and its words."""
    rng = np.random.default_rng(0)
    syllables = [consonant + vowel for consonant in "bcdfghklmnprstvw" for vowel in "aeiou"]
    words = ["".join(rng.choice(syllables, rng.integers(1, 4))) for _ in range(800)]

    def sentence():
        chosen = rng.choice(words, rng.integers(4, 28)).tolist()
        return " ".join([chosen[0].capitalize(), *chosen[1:]]) + "."

    text = {
        f"{number}.txt": [[sentence() for _ in range(rng.integers(20, 50))] for _ in range(40)]
        for number in range(4)
    }
    return text, sorted(set(words))


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
    text, words = made_up_text()
    pieces = [*SPECIALS, *words, *'.<>/="', *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    (tokenizer / "vocab.txt").write_text("\n".join(dict.fromkeys(pieces)))
    return text, tokenizer


@pytest.fixture
def write(tmp_path):
    """Writes a text into a directory; returns it."""

    def write_text(text, name="corpus"):
        directory = tmp_path / name
        directory.mkdir()
        for file, documents in text.items():
            joined = "\n\n".join("\n".join(lines) for lines in documents)
            (directory / file).write_text(f"{joined}\n")
        return directory

    return write_text


@pytest.fixture
def prepared(write, tmp_path, log):
    """Prepares a text; returns the directory of its shards and its report."""

    def run(text, tokenizer, name="corpus", **fields):
        fields = {"dupe_factor": 2, "processes": 1, **fields}
        corpus = write(text, name)
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
    # Nor do its shards, whether the report of preparing lies beside them or not.
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
    # fault: (its name, what may follow from it, words of the warning)
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
    corpus = [*lines[:1000], "", *lines[1000:]]  # an empty line more is not a document more
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
    # In a file behind the others, which keep their places, in a document that is trained on.
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
    """Prepares a text, changes its records as someone else's program might; the new audit's report.

    The manifest is made to fit the files, and what it says of labels if `and_share`.
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


# How it is asked --------------------------------------------------------------------------------


@pytest.fixture
def made(write, tmp_path):
    """A small text with every line twice, and its vocabulary."""
    text, words = made_up_text()
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIALS, ".", *words]))
    return write(every_line_twice({"a.txt": text["0.txt"]})), tmp_path / "vocab.txt"


def test_auditing_a_text_is_preparing_it_and_leaves_nothing(made, tmp_path, log, monkeypatch):
    corpus, vocabulary = made
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    before = sorted(tmp_path.rglob("*"))
    asked = AuditConfig(audit=(str(corpus),), tokenizer=str(vocabulary), max_seq_length=(32, 64))
    reports = inspection.audit_data(asked, log)
    assert sorted(tmp_path.rglob("*")) == before
    assert [report.numbers["max_seq_length"] for report in reports] == [32, 64]
    assert [line for line in log.lines if line.startswith("Warning")] == [
        f"Warning: {finding.sentence}" for finding in reports[0].findings
    ]
    few = inspection.audit_data(dataclasses.replace(asked, max_predictions=2), log)
    assert all("predictions_cut" in names(report) for report in few)
    log.lines.clear()
    output = tmp_path / "shards"
    fields = {"max_seq_length": (32, 64), "dupe_factor": 1}
    prepare(PrepareConfig((str(corpus),), str(vocabulary), str(output), **fields), log)
    assert [read_report(epath.Path(output / str(length))) for length in (32, 64)] == reports
    # The directory of both lengths is audited by its name too; what was said of the text stays.
    log.lines.clear()
    found = inspection.audit_data(AuditConfig(input=(str(output),)), log)
    assert [names(report) for report in found] == [names(report) for report in reports]
    # Prepared again, it says the same once more.
    log.lines.clear()
    prepare(PrepareConfig((str(corpus),), str(vocabulary), str(output), **fields), log)
    assert [line for line in log.lines if line.startswith("Warning")] == [
        f"Warning: {finding.sentence}" for finding in reports[0].findings
    ]


def test_an_audit_is_no_estimate(tmp_path, log):
    with pytest.raises(UserError, match="one of them at a time"):
        inspection.audit_data(AuditConfig(audit=(str(tmp_path),), estimate=True), log)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "name text (with its `tokenizer`) or a directory of shards"),
        ({"audit": ("{corpus}",)}, "holds no finished shards; to audit it as text, give the"),
        ({"audit": ("{corpus}/no.txt",), "tokenizer": "{vocabulary}"}, "nothing matches"),
    ],
)
def test_what_can_not_be_audited(made, log, fields, sentence):
    corpus, vocabulary = made
    fill = {"corpus": corpus, "vocabulary": vocabulary}
    fields = {
        name: tuple(each.format(**fill) for each in value)
        if isinstance(value, tuple)
        else value.format(**fill)
        for name, value in fields.items()
    }
    with pytest.raises(UserError) as caught:
        inspection.audit_data(AuditConfig(**fields), log)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"[]", b'{"format_version": 1}', b"[" * 100_000),
        b'{"format_version": 2, "warnings": [], "numbers": {}}',
        b'{"format_version": 1, "warnings": [], "numbers": 3}',
    ],
)
def test_a_report_that_can_not_be_read_is_none(tmp_path, data):
    (tmp_path / FILE).write_bytes(data)
    assert read_report(epath.Path(tmp_path)) is None
    assert not is_clean(epath.Path(tmp_path))


@pytest.mark.parametrize(
    ("line", "ends"),
    [
        ("Mr. Smith said so.", 1),
        ('"Yes!" he said. "No."', 1),
        ("One. Two? Three! Four.", 3),
        ("版本 3.5 是新的。它很快。好!", 2),
        ("यह एक है। यह दो है। यह तीन है।", 2),
        ("Dies ist z. B. gut.", 1),
    ],
)
def test_ends_of_sentences_inside_a_line(line, ends):
    assert measure._ends_inside(line) == ends


def test_of_more_sentences_a_sample_is_compared(made, tmp_path, log, monkeypatch):
    corpus, vocabulary = made
    found = {}
    for most in (1 << 21, 1000):
        monkeypatch.setattr(duplicates, "MAX_HASHES", most)
        output = tmp_path / f"shards-{most}"
        prepare(PrepareConfig((str(corpus),), str(vocabulary), str(output)), log)
        found[most] = read_report(epath.Path(output))
    whole, sample = found.values()
    assert whole.numbers["compared"] == "all"
    assert sample.numbers["compared"] == "one in 4, chosen by a hash of the sentence"
    assert 0.1 < sample.numbers["compared_sentences"] / whole.numbers["compared_sentences"] < 0.4
    assert whole.numbers["repeated_sentences"] == pytest.approx(0.5, abs=0.01)
    assert sample.numbers["repeated_sentences"] == pytest.approx(0.5, abs=0.01)
    assert "(an estimate from one in 4" in says(sample, "repeated_sentences")
