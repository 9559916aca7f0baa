"""The end of preparing: a finished directory's manifest, its files in their place, and what is said
of it.
"""

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath

from bertjax.data import shards
from bertjax.data.audit import duplicates, findings, measure
from bertjax.data.audit.duplicates import Repeats
from bertjax.data.audit.report import (
    FILE,
    Report,
    document_numbers,
    example_numbers,
    repeat_numbers,
    repeated_hashes,
    text_numbers,
)
from bertjax.data.prepare.segments import Totals, text_sums
from bertjax.data.prepare.splits import Unit
from bertjax.data.segments import SEGMENTS
from bertjax.data.shards import Manifest, ShardFile
from bertjax.errors import UserError
from bertjax.text import corpus
from bertjax.text.corpus import Source
from bertjax.text.tokenizer import Tokenizer

# An example of repeated text is looked for by tokenising the text again, from its beginning.
_SENTENCES_SEARCHED = 50_000


def make_manifest(
    plan: dict[str, Any],
    tokenizer: Tokenizer,
    totals: Sequence[Totals],
    units: Sequence[Unit],
    results: Sequence[dict[str, Any]],
    built: epath.Path,
) -> Manifest:
    """The manifest of what pass 2 has made.

    Args:
        plan: what the shards depend on, by the manifest's names.
        tokenizer: of the text.
        totals: what pass 1 left, a segment each.
        units: what was paired at once.
        results: what became of each unit.
        built: where pass 2 left its files.

    Raises:
        UserError: the text gives no example of this kind.
    """
    by_split = {
        split: [result for unit, result in zip(units, results, strict=True) if unit.split == split]
        for split in shards.SPLITS
    }

    def total(split: str, name: str) -> int:
        return sum(result[name] for result in by_split[split])

    train, held_out = total("train", "examples"), total("held_out", "examples")
    if not train:  # pairs of sentences of a document, and a document has one
        raise UserError(
            "Every training document has one sentence, and none has an order of sentences: put "
            "blank lines between documents only, or choose other `segments`."
        )
    kind, length = SEGMENTS[plan["segments"]], plan["max_seq_length"]
    random_share = total("held_out", "random") / max(held_out, 1)
    majority = round(max(random_share, 1 - random_share), 6)
    names = ("max_seq_length", "seed", "dupe_factor", "short_seq_prob", "held_out", "language")
    names += ("block_mib", "segments", "format_version", "tokenizer_sha256")
    return Manifest(
        **{name: plan[name] for name in names},
        vocab_size=tokenizer.vocab_size,
        **{name: getattr(tokenizer, name) for name in ("pad_id", "cls_id", "sep_id")},
        mask_id=tokenizer.mask_id,
        unk_id=tokenizer.unk_id,
        blocks=totals[0].blocks,
        files={
            split: tuple(ShardFile(**file) for result in rows for file in result["files"])
            for split, rows in by_split.items()
        },
        corpus=tuple(shards.CorpusFile(**file) for file in plan["corpus"]),
        documents=sum(each.documents for each in totals),
        sentences=sum(each.sentences for each in totals),
        words=sum(each.words for each in totals),
        tokens=sum(each.ids for each in totals),
        padding=round(1 - (total("train", "ids") / train + kind.special_tokens) / length, 6),
        label_1_share=round(total("train", "random") / train, 6) if kind.is_pair else None,
        unigram_entropy=_unigram_entropy(built, units, tokenizer) if held_out else None,
        majority=majority if held_out and kind.is_pair else None,
    )


def _unigram_entropy(built: epath.Path, units: Sequence[Unit], tokenizer: Tokenizer) -> float:
    """Nats a token: held-out ids under the add-one-smoothed training frequencies, no specials."""
    counts = {split: np.zeros(tokenizer.vocab_size, np.int64) for split in shards.SPLITS}
    for unit in units:
        data = (built / f"{unit.name}.counts").read_bytes()
        counts[unit.split] += np.frombuffer(data, "<i8")
    text = ~tokenizer.special()
    train, held_out = counts["train"][text] + 1.0, counts["held_out"][text]
    return round(float(-(held_out @ np.log(train / train.sum())) / max(held_out.sum(), 1)), 6)


def make_report(
    manifest: Manifest,
    segments: Sequence[epath.Path],
    units: Sequence[Unit],
    results: Sequence[dict[str, Any]],
    built: epath.Path,
    sources: Sequence[Source],
    tokenizer: Tokenizer,
) -> Report:
    """What the passes' sums say of the text and of its examples.

    Args:
        manifest: of the examples.
        segments: what pass 1 left.
        units: what was paired at once.
        results: what became of each unit.
        built: where pass 2 left its files.
        sources: the corpus.
        tokenizer: of the text.
    """
    text = text_sums(segments)
    lengths: dict[str, list[int]] = {split: [0] for split in shards.SPLITS}
    random: dict[str, int] = dict.fromkeys(shards.SPLITS, 0)
    hashes: dict[str, list[Repeats]] = {split: [] for split in shards.SPLITS}
    documents: Counter[str] = Counter()
    for unit, result in zip(units, results, strict=True):
        lengths[unit.split] = np.add(lengths[unit.split], result["lengths"]).tolist()
        random[unit.split] += result["random"]
        documents.update(result["text"])
        data = (built / f"{unit.name}.sentences").read_bytes()
        hashes[unit.split].append(Repeats.from_bytes(data))
    train, held_out = (Repeats.merged(hashes[split]) for split in shards.SPLITS)
    bits = duplicates.sample_bits(manifest.sentences)
    numbers = {
        **text_numbers(text.sums, manifest.words),
        **document_numbers(documents),
        **repeat_numbers(train, held_out, bits),
        **example_numbers(manifest.segments, manifest.max_seq_length, lengths, random),
    }
    if manifest.segment_kind.draws_other_documents:
        numbers["same_document_pairs"] = sum(result["same_document"] for result in results)

    def example(finding: str) -> str:
        found = text.examples.get(finding)
        wanted = repeated_hashes(finding, train, held_out, bits)
        if len(wanted):
            found = _find_sentence(wanted, sources, tokenizer, manifest.language)
        if found is None:
            return ""
        source = sources[found.file]
        number = corpus.find_line(source, found.beginning)
        where = f"{source}" if number is None else f"{source}:{number}"
        return findings.as_example(where, found.excerpt())

    return Report(numbers, findings.judge(numbers, functools.cache(example)))


def _find_sentence(
    wanted: np.ndarray, sources: Sequence[Source], tokenizer: Tokenizer, language: str
) -> measure.Example | None:
    """The first sentence of the corpus with one of these hashes, if it is not far in."""
    looked_at = 0
    for number, source in enumerate(sources):
        for document in corpus.read_documents(source, language):
            for sentence, ids in zip(document, tokenizer.encode_sentences(document), strict=True):
                found = duplicates.sentence_hashes(ids, np.array([0, len(ids)]), bits=0)
                if np.isin(found, wanted).any():
                    return measure.Example.of(number, sentence)
            looked_at += len(document)
            if looked_at > _SENTENCES_SEARCHED:
                return None
    return None


def publish(
    target: epath.Path,
    built: epath.Path,
    manifest: Manifest,
    report: Report,
    tokenizer: Tokenizer,
) -> None:
    """Moves the shards to their place, then writes the manifest; may be cut short and repeated."""
    target.mkdir(parents=True, exist_ok=True)
    for file in (file for split in shards.SPLITS for file in manifest.files[split]):
        if (path := built / file.name).exists():
            path.replace(target / file.name)
    for leftover in list((target / shards.TOKENIZER).glob(".*.tmp")):  # of a run that was killed
        leftover.unlink()
    tokenizer.save(target / shards.TOKENIZER)
    texts = {FILE: report.to_json(), shards.MANIFEST: manifest.to_json()}
    for name, text in texts.items():
        (built / name).write_text(text)
        (built / name).replace(target / name)


def summarise(
    manifests: Sequence[Manifest], seconds: float | None, log: Callable[[str], None]
) -> None:
    """Tells what was prepared.

    Args:
        manifests: of the same text, one a length.
        seconds: what it took, if all of it was done at once.
        log: is given a line at a time.
    """
    first = manifests[0]
    text = f"{first.documents:,} documents, {first.sentences:,} sentences, {first.words:,} words"
    amount, unit = first.words, "words"
    if not first.documents:  # examples that came as TFRecords
        text, amount, unit = f"{first.tokens:,} tokens", first.tokens, "tokens"
    speed = "" if seconds is None else f" ({amount / max(seconds, 1e-9):,.0f} {unit}/s)"
    for manifest in manifests:
        line = (
            f"{manifest.examples('train'):,} training and {manifest.examples('held_out'):,} "
            f"held-out examples of up to {manifest.max_seq_length} tokens; "
            f"{manifest.padding:.1%} padding"
        )
        if manifest.label_1_share is not None:
            line += f", {manifest.label_1_share:.1%} {manifest.segment_kind.label_share}"
        log(f"{text}{speed}: {line}." if manifest is first else f"{line}.")
