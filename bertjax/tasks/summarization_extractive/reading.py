"""Files of documents -> a `Task`."""

import dataclasses
import functools

from bertjax.model import extractive
from bertjax.tasks.overlap import overlaps
from bertjax.tasks.rouge import rouge_notes
from bertjax.tasks.summarization_extractive import losses, metrics
from bertjax.tasks.summarization_extractive.config import ExtractiveSummarizationConfig
from bertjax.tasks.summarization_extractive.documents import read_documents
from bertjax.tasks.summarization_extractive.features import Windows, make_windows
from bertjax.tasks.task import Baseline, Head, Task, TaskFiles, data_hash

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")


@functools.cache
def head(inter_sentence_layers: int) -> Head:
    """Returns the head; equal arguments give the same one, whose programs tasks share."""
    layers = {"inter_sentence_layers": inter_sentence_layers}
    return Head(
        extractive.KIND,
        1,
        losses.sentence_extraction_loss,
        losses.sentence_extraction_normalizers,
        forward=extractive.sentence_logits,
        init_params=functools.partial(extractive.init_params, **layers),
        flops=functools.partial(extractive.sentence_flops, **layers),
    )


def read(options: ExtractiveSummarizationConfig, files: TaskFiles) -> Task:
    """Reads and tokenizes files of documents with summaries or labels.

    Raises:
        UserError: something is wrong with a file, and the sentence names the line; or rouge-score
            is not installed.
    """
    documents = [read_documents(path, options) for path in files.paths]
    train, dev, *test = [
        make_windows(each, files.tokenizer, files.max_seq_length) for each in documents
    ]
    lead = f"Lead-{options.sentences}"
    overlap = overlaps(files.paths, [[one.sentences for one in each] for each in documents])
    for line in (*_summary(options, files.max_seq_length, train, dev), *overlap):
        files.log(line)

    def baseline(windows: Windows) -> Baseline:
        rules = metrics.rules(windows, options.sentences, options.tokenize)
        return Baseline("lead", lead, {name: rules[f"lead_{name}"] for name in ROUGE})

    return Task(
        head(options.inter_sentence_layers),
        train,
        dev,
        test[0] if test else None,
        *map(data_hash, documents[:2]),
        metric=ROUGE[0],
        metrics=(*ROUGE, "f1", "accuracy", "loss"),
        scores=functools.partial(metrics.scores, options=options),
        immutable={},
        export=lambda _: dataclasses.asdict(options),
        notes=rouge_notes(options.tokenize),
        report_tables=lambda outputs: metrics.report_tables(dev, outputs, options),
        baseline=baseline(dev),
        test_baseline=baseline(test[0]) if test else None,
        dev_metrics=("oracle_rouge1", "rouge2", "rougeL", "f1", "loss"),
        figures={
            f"{rule}{metric}": (f"ROUGE-{metric.removeprefix('rouge')}", words)
            for metric in ROUGE
            for rule, words in (("", metric), ("lead_", lead), ("oracle_", "oracle"))
        },
    )


def _summary(
    options: ExtractiveSummarizationConfig, max_seq_length: int, train: Windows, dev: Windows
) -> list[str]:
    sentences = [document.sentences for document in train.documents]
    labels = [document.labels for document in train.documents]
    lines = [
        f"Training on {len(sentences):,} documents, whose {sum(map(len, sentences)):,} sentences "
        f"have {sum(map(len, labels)):,} labels, in {len(train):,} windows of up to "
        f"{max_seq_length} tokens; evaluating on {len(dev.documents):,} documents."
    ]
    if without := sum(not each for each in labels):
        lines.append(
            f"{without:,} training documents have no word in common with their summaries, and so "
            "no label."
        )
    if truncated := train.truncated + dev.truncated:
        lines.append(
            f"{truncated:,} sentences are longer than a window of {max_seq_length} tokens and "
            "are truncated."
        )
    rules = metrics.rules(dev, options.sentences, options.tokenize)
    for name, what in (
        ("lead", f"Lead-{options.sentences}, which picks the first sentences,"),
        ("oracle", "The oracle, which picks the labeled sentences,"),
    ):
        shown = ", ".join(f"{each} {rules[f'{name}_{each}']:.2f}" for each in ROUGE)
        lines.append(f"{what} has {shown} on the dev documents.")
    return lines
