"""Files of sources and targets -> a `Task`."""

import dataclasses

from bertjax.errors import UserError
from bertjax.tasks.overlap import overlaps
from bertjax.tasks.report_tables import ReportTable
from bertjax.tasks.seq2seq import architectures, scoring
from bertjax.tasks.seq2seq.architectures import Start
from bertjax.tasks.seq2seq.config import Seq2SeqConfig
from bertjax.tasks.seq2seq.features import Seq2SeqFeatures, add_targets, read_sources
from bertjax.tasks.seq2seq.pairs import Pairs, read_pairs
from bertjax.tasks.seq2seq.scoring import METRICS, Scorer
from bertjax.tasks.task import Baseline, Outputs, Scores, Task, TaskFiles, data_hash


def read(options: Seq2SeqConfig, files: TaskFiles) -> Task:
    """Reads and tokenizes files of sources and targets.

    Raises:
        UserError: something is wrong with a file or with a model; the sentence names it.
    """
    start = architectures.start(options, files)
    pairs = [read_pairs(path, options) for path in files.paths]
    train, dev, *test = [_tokenize(each, start, files) for each in pairs]
    sample = None
    if 0 < options.eval_rows < len(dev):
        sample = _tokenize(
            Pairs(*(column[: options.eval_rows] for column in pairs[1])), start, files
        )
    scorer = Scorer.of(options, start.tokenizer)
    for each in pairs[1:]:
        scorer.check(each)
    overlap = overlaps(files.paths, [each.sources for each in pairs])
    for line in (*_summary(train, dev, start), *overlap):
        files.log(line)

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
        _hash(pairs[1], options.eval_rows),
        metric=METRICS[options.scoring][0],
        metrics=METRICS[options.scoring],
        scores=scores,
        immutable={"max_source_length": start.max_source_length},
        export=lambda _: recorded_options(options),
        config=start.config,
        dev_sample=sample,
        start_params=start.params,
        decoder_tokenizer=None if start.tokenizer is files.tokenizer else start.tokenizer,
        notes=scorer.notes(options),
        report_tables=report_tables,
        baseline=_baseline(scorer, dev, pairs[1]),
        test_baseline=_baseline(scorer, test[0], pairs[2]) if test else None,
        train_metrics=("nll_loss", "accuracy"),
        dev_metrics=(*METRICS[options.scoring][1:], "length"),
    )


def _tokenize(pairs: Pairs, start: Start, files: TaskFiles) -> Seq2SeqFeatures:
    longest, seed = start.options.max_target_length, start.options.generation.sample_seed
    sources = read_sources(pairs.sources, files.tokenizer, start.max_source_length, seed)
    features = add_targets(sources, pairs.targets, start.tokenizer, longest)
    long = features.truncated_targets
    if long and not start.options.truncate_targets:
        raise UserError(
            f"{pairs.places[long[0]]}: the target has more than `max_target_length` {longest} "
            f"tokens, like {len(long):,} of {len(pairs):,} targets: raise it, or set "
            "`truncate_targets`."
        )
    return features


def _summary(train: Seq2SeqFeatures, dev: Seq2SeqFeatures, start: Start) -> list[str]:
    sources, targets = train.lengths.mean(axis=0)
    count = start.options.eval_rows
    sample = f", during training on the first {count:,}" if 0 < count < len(dev) else ""
    lines = [
        f"Training on {len(train):,} pairs of {sources:.1f} source and {targets:.1f} target tokens "
        f"on average, evaluating on {len(dev):,}{sample}."
    ]
    for kind, count, longest in (
        ("sources", train.truncated_sources, start.max_source_length),
        ("targets", len(train.truncated_targets), start.options.max_target_length),
    ):
        if count:
            lines.append(
                f"{count:,} training {kind} have more than {longest} tokens and are truncated."
            )
    return lines


def _hash(pairs: Pairs, *more: int) -> str:
    return data_hash([pairs.sources, pairs.targets, *more])


def immutable(options: Seq2SeqConfig) -> dict:
    """The options that change what is learned."""
    names = ("architecture", "decoder", "encoder_weights", "decoder_weights", "share")
    more = ("max_target_length", "truncate_targets", "label_smoothing")
    return {name: getattr(options, name) for name in (*names, *more)}


def recorded_options(options: Seq2SeqConfig) -> dict:
    """Returns the options that an export keeps for evaluation and prediction."""
    fields = dataclasses.asdict(options)
    training = ("decoder", "encoder_weights", "decoder_weights", "truncate_targets", "eval_rows")
    training += ("label_smoothing", "column_names")
    return {name: value for name, value in fields.items() if name not in training}


def _baseline(scorer: Scorer, rows: Seq2SeqFeatures, pairs: Pairs) -> Baseline:
    copied = scoring.copied_beginnings(rows, pairs.sources)
    scores = scorer.text_scores(copied, rows.references)
    return Baseline("copy", "the beginning of the source", scores)
