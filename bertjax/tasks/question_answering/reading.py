"""Files in SQuAD's format -> a `Task`."""

import functools

from bertjax.tasks.overlap import overlaps
from bertjax.tasks.question_answering import baseline, decoding, losses, metrics, squad
from bertjax.tasks.question_answering.config import QuestionAnsweringConfig
from bertjax.tasks.question_answering.features import make_windows
from bertjax.tasks.task import Baseline, Head, Task, TaskFiles

HEAD = Head(
    "question_answering", 2, losses.question_answering_loss, losses.question_answering_normalizers
)


def read(options: QuestionAnsweringConfig, files: TaskFiles) -> Task:
    """Reads and tokenizes files in SQuAD's format.

    Raises:
        UserError: something is wrong with a file; the sentence names the question.
    """
    options.check_fits(files.max_seq_length)
    sources = [
        squad.read_squad(path, drop_misaligned=options.drop_misaligned) for path in files.paths
    ]
    train, dev, *test = [
        make_windows(
            source.questions,
            files.tokenizer,
            options,
            max_seq_length=files.max_seq_length,
            has_unanswerable=source.has_unanswerable,
        )
        for source in sources
    ]
    answered = int((train.positions[:, 0] > 0).sum())
    files.log(
        f"Training on {len(sources[0]):,} questions in {len(train):,} windows of up to "
        f"{files.max_seq_length} tokens, {answered:,} with an answer; evaluating on "
        f"{len(sources[1]):,} questions in {len(dev):,} windows."
    )
    asked = [[(each.question, each.context) for each in source.questions] for source in sources]
    for line in overlaps(files.paths, asked):
        files.log(line)
    for source in sources:
        if source.misaligned:
            files.log(
                f"Left out {source.misaligned:,} answers of {source.path} that are not at their "
                "answer_start."
            )
    max_answer_length = options.max_answer_length
    best = ("best_f1", "best_exact") if dev.has_unanswerable else ()
    return Task(
        HEAD,
        train,
        dev,
        test[0] if test else None,
        sources[0].sha256,
        sources[1].sha256,
        metric="f1",
        metrics=("f1", "exact", *best),
        scores=functools.partial(decoding.scores, max_answer_length=max_answer_length),
        test_scores=functools.partial(decoding.test_scores, max_answer_length=max_answer_length),
        immutable={},
        export=lambda scores: {
            **recorded(options),
            "has_unanswerable": any(source.has_unanswerable for source in sources[:2]),
            "null_threshold": scores.get("best_f1_threshold", 0.0),
        },
        baseline=_baseline(sources[0], sources[1]),
        test_baseline=_baseline(sources[0], sources[2]) if test else None,
        dev_metrics=("exact", "best_f1"),
    )


def recorded(options: QuestionAnsweringConfig) -> dict[str, int]:
    """The options that an export keeps; the data tell what was left out of it."""
    return {name: value for name, value in vars(options).items() if name != "drop_misaligned"}


def _baseline(train: squad.Questions, scored: squad.Questions) -> Baseline:
    """The better of two rules: answering with the words around the question's, and not at all."""
    length = baseline.mean_length(train.questions)
    answers = {each.id: baseline.overlap_answer(each, length) for each in scored.questions}
    rules = [("word overlap", "the words nearest the question's", answers)]
    null = scored.has_unanswerable
    if null:
        rules.append(("no answer", "never answering", dict.fromkeys(answers, "")))
    baselines = []
    for name, description, texts in rules:
        found = metrics.squad_scores(scored.questions, texts, has_unanswerable=null)
        if null:  # no threshold changes its answers
            found |= {"best_f1": found["f1"], "best_exact": found["exact"]}
        baselines.append(Baseline(name, description, found))
    return max(baselines, key=lambda each: each.scores["f1"])
