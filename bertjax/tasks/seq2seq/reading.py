"""Files of sources and targets -> a `Task`."""

import dataclasses
import hashlib
import json

from bertjax.errors import UserError
from bertjax.tasks.report_tables import ReportTable
from bertjax.tasks.seq2seq import architectures, scoring
from bertjax.tasks.seq2seq.architectures import PREFIX, Start
from bertjax.tasks.seq2seq.config import Seq2SeqConfig
from bertjax.tasks.seq2seq.features import Seq2SeqFeatures, add_targets, read_sources
from bertjax.tasks.seq2seq.pairs import Pairs, read_pairs
from bertjax.tasks.seq2seq.scoring import METRICS, Scorer
from bertjax.tasks.task import Baseline, Outputs, Scores, Task, TaskFiles


def read(options: Seq2SeqConfig, files: TaskFiles) -> Task:
    """Reads and tokenizes files of sources and targets.

    Raises:
        UserError: something is wrong with a file or with a model; the sentence names it.
    """
    start = architectures.start(options, files)
    pairs = [read_pairs(path, options) for path in files.paths]
    train, dev, *test = [_tokenize(each, start, files) for each in pairs]
    scorer = Scorer.of(options, start.tokenizer)
    files.log(_summary(pairs, train, dev))

    def scores(features: Seq2SeqFeatures, outputs: Outputs) -> Scores:
        return scorer.scores(scoring.gather(outputs, start.tokenizer), features)

    def report_tables(outputs: Outputs) -> list[ReportTable]:
        written = scoring.gather(outputs, start.tokenizer)
        return scoring.report_tables(pairs[1].sources, dev, written, scorer)

    return Task(
        start.head,
        train,
        dev,
        test[0] if test else None,
        _hash(pairs[0]),
        _hash(pairs[1]),
        metric=METRICS[options.scoring][0],
        metrics=METRICS[options.scoring],
        scores=scores,
        immutable=_immutable(options),
        export=lambda _: recorded_options(options),
        config=start.config,
        start_params=start.params,
        decoder_tokenizer=None if start.tokenizer is files.tokenizer else start.tokenizer,
        notes=scorer.notes(options),
        report_tables=report_tables,
        baseline=_baseline(scorer, dev, pairs[1]),
        train_metrics=("nll_loss", "accuracy"),
        dev_metrics=(*METRICS[options.scoring][1:], "length"),
    )


def _tokenize(pairs: Pairs, start: Start, files: TaskFiles) -> Seq2SeqFeatures:
    options = start.options
    room = files.max_seq_length
    if start.head.name == PREFIX:
        room -= options.longest_target
        if room < 3:
            raise UserError(
                f"Targets of {options.longest_target} tokens leave {max(room, 0)} of the "
                f"`max_seq_length` {files.max_seq_length} for the source: lower "
                "`max_target_length` and `max_length`."
            )
    sources = read_sources(pairs.sources, files.tokenizer, room)
    longest = options.max_target_length
    features = add_targets(sources, pairs.targets, start.tokenizer, longest + 1)
    long = [row for row, ids in enumerate(features.targets) if len(ids) > longest]
    if long and not options.truncate_targets:
        raise UserError(
            f"{pairs.places[long[0]]}: the target has more than `max_target_length` {longest} "
            f"tokens, as {len(long):,} of {len(pairs):,} have: raise it, or set "
            "`truncate_targets`."
        )
    return add_targets(sources, pairs.targets, start.tokenizer, longest) if long else features


def _summary(pairs: list[Pairs], train: Seq2SeqFeatures, dev: Seq2SeqFeatures) -> str:
    sources, targets = train.lengths.T
    full = int((sources == sources.max()).sum())
    return (
        f"Training on {len(pairs[0]):,} pairs of {sources.mean():.1f} source and "
        f"{targets.mean():.1f} target tokens on average, evaluating on {len(dev):,}; "
        f"{full:,} training sources fill all {sources.max()} tokens."
    )


def _hash(pairs: Pairs) -> str:
    return hashlib.sha256(json.dumps([pairs.sources, pairs.targets]).encode()).hexdigest()


def _immutable(options: Seq2SeqConfig) -> dict:
    """The options that change what is learned."""
    names = ("architecture", "decoder", "encoder_weights", "decoder_weights", "share")
    more = ("max_target_length", "truncate_targets", "label_smoothing")
    return {name: getattr(options, name) for name in (*names, *more)}


def recorded_options(options: Seq2SeqConfig) -> dict:
    """Returns the options that an export keeps for evaluation and prediction."""
    fields = dataclasses.asdict(options)
    training = ("decoder", "encoder_weights", "decoder_weights", "truncate_targets", "eval_rows")
    return {name: value for name, value in fields.items() if name not in training}


def _baseline(scorer: Scorer, dev: Seq2SeqFeatures, pairs: Pairs) -> Baseline:
    copied = scoring.copied_beginnings(dev, pairs.sources)
    score = scorer.text_scores(copied, dev.references)[METRICS[scorer.scoring][0]]
    return Baseline("copy", "the beginning of the source", score)
