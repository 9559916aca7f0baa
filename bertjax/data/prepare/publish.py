"""The end of preparing: the manifest, the audit and the files of a finished directory."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from bertjax.data import shards
from bertjax.data.audit import duplicates, findings, report
from bertjax.data.audit.measure import QUOTED_CHARACTERS, Example
from bertjax.data.audit.report import Report
from bertjax.data.prepare.example_writer import COUNT
from bertjax.data.prepare.splits import Unit
from bertjax.data.prepare.token_store import Totals, text_sums
from bertjax.data.segments import SEGMENTS
from bertjax.data.shards import Manifest, ShardFile
from bertjax.errors import UserError
from bertjax.text import corpus
from bertjax.text.corpus import Source
from bertjax.text.tokenizer import Tokenizer

# An example of repeated text is found by tokenizing the corpus again from its beginning.
_MAX_SEARCHED_SENTENCES = 50_000

Results = Mapping[Unit, dict[str, Any]]
"""For each unit, what `example_writer.write_examples` has written to its marker."""


def make_manifest(
    settings: dict[str, Any],
    tokenizer: Tokenizer,
    totals: Sequence[Totals],
    results: Results,
    directory: epath.Path,
) -> Manifest:
    """Returns the manifest of the shards that pass 2 has left in `directory`.

    `settings` are everything that the shards depend on, by the names of the manifest. Raises
    `UserError` if the text gives no example of this kind.
    """
    length = settings["max_seq_length"]
    lengths, random = _total(results, "lengths"), _total(results, "random")
    examples = {split: int(np.sum(lengths[split])) for split in shards.SPLITS}
    if not examples["train"]:  # sentence_order draws from documents of two or more sentences
        raise UserError(
            "Every training document has one sentence, and none has an order of sentences: put "
            "blank lines between documents only, or choose other `segments`."
        )
    tokens = int(lengths["train"] @ np.arange(len(lengths["train"])))
    share = random["held_out"] / max(examples["held_out"], 1)
    is_pair, has_held_out = SEGMENTS[settings["segments"]].is_pair, examples["held_out"] > 0
    names = ("max_seq_length", "seed", "dupe_factor", "short_seq_prob", "held_out", "language")
    names += ("block_mib", "segments", "format_version", "tokenizer_sha256")
    ids = ("vocab_size", "pad_id", "cls_id", "sep_id", "mask_id", "unk_id")
    files: dict[str, tuple[ShardFile, ...]] = dict.fromkeys(shards.SPLITS, ())
    for unit, result in results.items():
        files[unit.split] += tuple(ShardFile(**file) for file in result["files"])
    return Manifest(
        **{name: settings[name] for name in names},
        **{name: getattr(tokenizer, name) for name in ids},
        blocks=totals[0].blocks,
        files=files,
        corpus=tuple(shards.CorpusFile(**file) for file in settings["corpus"]),
        documents=sum(each.documents for each in totals),
        sentences=sum(each.sentences for each in totals),
        words=sum(each.words for each in totals),
        tokens=sum(each.ids for each in totals),
        padding=round(1 - tokens / examples["train"] / length, 6),
        label_1_share=round(random["train"] / examples["train"], 6) if is_pair else None,
        unigram_entropy=_unigram_entropy(directory, results, tokenizer) if has_held_out else None,
        majority=round(max(share, 1 - share), 6) if has_held_out and is_pair else None,
    )


def _total(results: Results, name: str) -> dict[str, Any]:
    """Adds up a number, or an array of numbers, of the units of each split."""
    totals: dict[str, Any] = {}
    for split in shards.SPLITS:
        values = [result[name] for unit, result in results.items() if unit.split == split]
        totals[split] = np.sum(values, axis=0) if values else 0
    return totals


def _unigram_entropy(directory: epath.Path, results: Results, tokenizer: Tokenizer) -> float:
    """Returns the nats per held-out token under the add-one-smoothed training frequencies."""
    counts = {split: np.zeros(tokenizer.vocab_size, np.int64) for split in shards.SPLITS}
    for unit in results:
        data = (directory / f"{unit.name}.counts").read_bytes()
        counts[unit.split] += np.frombuffer(data, COUNT)
    text = ~tokenizer.special()
    train, held_out = counts["train"][text] + 1.0, counts["held_out"][text]
    return round(float(-(held_out @ np.log(train / train.sum())) / max(held_out.sum(), 1)), 6)


def make_report(
    manifest: Manifest,
    paths: Sequence[epath.Path],
    results: Results,
    directory: epath.Path,
    sources: Sequence[Source],
    tokenizer: Tokenizer,
) -> Report:
    """Audits the text and its examples by the sums of both passes.

    `paths` are the token files, `results` and `directory` what pass 2 has left.
    """
    text = text_sums(paths)
    hashes = {split: [np.zeros(0, np.uint64)] for split in shards.SPLITS}
    for unit, result in results.items():
        text.sums.update(result["text"])
        data = (directory / f"{unit.name}.sentences").read_bytes()
        hashes[unit.split].append(np.frombuffer(data, np.uint64))
    train, held_out = map(np.concatenate, hashes.values())
    bits = duplicates.sample_bits(manifest.sentences)
    repeats, repeated = report.repeat_numbers(train, held_out, bits)
    numbers = {
        **report.text_numbers(text.sums, manifest.words),
        **repeats,
        **report.example_numbers(manifest, _total(results, "lengths"), _total(results, "random")),
    }
    if manifest.segment_kind.draws_other_documents:
        numbers["same_document_pairs"] = sum(each["same_document"] for each in results.values())

    @functools.cache
    def example(finding: str) -> str:
        found = text.examples.get(finding)
        if finding in repeated:
            found = _find_sentence(repeated[finding], sources, tokenizer, manifest.language)
        if found is None:
            return ""
        number = corpus.find_line(sources[found.file], found.line)
        where = f"{sources[found.file]}" + ("" if number is None else f":{number}")
        dots = "..." if len(found.line) == QUOTED_CHARACTERS else ""
        return findings.as_example(where, found.line + dots)

    return Report(numbers, findings.judge(numbers, example))


def _find_sentence(
    hashes: np.ndarray, sources: Sequence[Source], tokenizer: Tokenizer, language: str
) -> Example | None:
    """Returns the first sentence of the corpus with one of the hashes, None if it is far in."""
    searched = 0
    for number, source in enumerate(sources):
        for document in corpus.read_documents(source, language):
            for sentence, ids in zip(document, tokenizer.encode_sentences(document), strict=True):
                found = duplicates.sentence_hashes(ids, np.array([0, len(ids)]), bits=0)
                if np.isin(found, hashes).any():
                    return Example(1, number, sentence[:QUOTED_CHARACTERS])
            searched += len(document)
            if searched > _MAX_SEARCHED_SENTENCES:
                return None
    return None


def publish(
    target: epath.Path,
    directory: epath.Path,
    manifest: Manifest,
    audit: Report,
    tokenizer: Tokenizer,
) -> None:
    """Moves shards from `directory` to `target` and writes the manifest last.

    An interrupted call can be repeated.
    """
    target.mkdir(parents=True, exist_ok=True)
    for file in itertools.chain(*manifest.files.values()):
        if (path := directory / file.name).exists():
            path.replace(target / file.name)
    tokenizer.save(target / shards.TOKENIZER)
    for name, text in {report.FILE: audit.to_json(), shards.MANIFEST: manifest.to_json()}.items():
        (directory / name).write_text(text)
        (directory / name).replace(target / name)


def summarize(
    manifests: Sequence[Manifest], seconds: float | None, log: Callable[[str], None]
) -> None:
    """Logs what was prepared, one manifest per length; `seconds` is None for a resumed run."""
    first = manifests[0]
    text = f"{first.documents:,} documents, {first.sentences:,} sentences, {first.words:,} words"
    amount, unit = first.words, "words"
    if not first.documents:  # the examples come from TFRecords
        text, amount, unit = f"{first.tokens:,} tokens", first.tokens, "tokens"
    speed = "" if seconds is None else f" ({amount / max(seconds, 1e-9):,.0f} {unit}/s)"
    for manifest in manifests:
        train, held_out = map(manifest.examples, shards.SPLITS)
        line = f"{train:,} training and {held_out:,} held-out examples of up to "
        line += f"{manifest.max_seq_length} tokens; {manifest.padding:.1%} padding"
        if manifest.label_1_share is not None:
            line += f", {manifest.label_1_share:.1%} {manifest.segment_kind.label_share}"
        log(f"{text}{speed}: {line}." if manifest is first else f"{line}.")
