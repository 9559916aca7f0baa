"""Questions in SQuAD's format -> the `Task` of answering them."""

import dataclasses
import functools
from typing import TYPE_CHECKING

from bertjax.interop.huggingface import Pretrained
from bertjax.objectives import losses
from bertjax.tasks.question_answering import baseline, metrics, predictions, squad
from bertjax.tasks.question_answering.features import make_windows
from bertjax.tasks.task import Baseline, Head, Task

if TYPE_CHECKING:
    from bertjax.finetune.run import FinetuneConfig, Log


def read_question_answering(config: "FinetuneConfig", model: Pretrained, log: "Log") -> Task:
    """Reads and tokenizes the files of a configuration; as `read_task`."""
    options = config.question_answering
    length = config.row_length(model.config.max_position_embeddings)
    options.check_fits(length)
    files = [squad.read_squad(path) for path in (config.train, config.dev, config.test) if path]
    train, dev, *test = [
        make_windows(
            each.questions,
            model.tokenizer,
            max_seq_length=length,
            max_query_length=options.max_query_length,
            doc_stride=options.doc_stride,
            has_unanswerable=each.has_unanswerable,
        )
        for each in files
    ]
    answered = int((train.positions[:, 0] > 0).sum())
    log(
        f"Training on {len(files[0]):,} questions in {len(train):,} windows of up to {length} "
        f"tokens, {answered:,} with an answer; evaluating on {len(files[1]):,} questions in "
        f"{len(dev):,} windows."
    )
    return Task(
        Head(
            "question_answering",
            2,
            losses.question_answering_loss,
            losses.question_answering_normalizers,
        ),
        train,
        dev,
        test[0] if test else None,
        files[0].sha256,
        files[1].sha256,
        length,
        metric="f1",
        scores=functools.partial(predictions.scores, max_answer_length=options.max_answer_length),
        test_scores=functools.partial(
            predictions.test_scores, max_answer_length=options.max_answer_length
        ),
        immutable={
            "objective": "question_answering",
            "question_answering": dataclasses.asdict(options),
        },
        fields=lambda scores: {
            "max_seq_length": length,
            **dataclasses.asdict(options),
            "has_unanswerable": any(each.has_unanswerable for each in files[:2]),
            "null_threshold": scores.get("best_f1_threshold", 0.0),
        },
        baseline=_without_learning(files[0], files[1]),
        shown=("exact", "best_f1"),
        metrics=("f1", "exact", *(("best_f1", "best_exact") if files[1].has_unanswerable else ())),
    )


def _without_learning(train: squad.Questions, dev: squad.Questions) -> Baseline:
    """The better of two ways to answer without a model."""
    length = baseline.usual_length(train.questions)
    answers = {each.id: baseline.overlap_answer(each, length) for each in dev.questions}
    ways = [("word overlap", "the words nearest the question's", answers)]
    if dev.has_unanswerable:
        ways.append(("no answer", "never answering", dict.fromkeys(answers, "")))
    chances = [
        Baseline(
            name,
            said,
            metrics.squad_scores(dev.questions, texts, has_unanswerable=dev.has_unanswerable)["f1"],
        )
        for name, said, texts in ways
    ]
    return max(chances, key=lambda baseline: baseline.score)
