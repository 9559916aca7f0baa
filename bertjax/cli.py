"""The command line: verbs, no logic. Only this module exits.

Exit codes: 0 done; 2 a mistake of the user's (one sentence); 75 stopped early by a signal and
resumable; 1 anything else, with its traceback, and warnings where --strict was said.
"""

import contextlib
import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from bertjax import parsing
from bertjax.commands import command
from bertjax.errors import Stopped, UserError
from bertjax.parsing import flags_of, parse_recipe, with_positionals

EXIT_DONE, EXIT_INTERRUPTED, EXIT_WARNED, EXIT_MISTAKE, EXIT_STOPPED = 0, 1, 1, 2, 75
_RESUMABLE = ("demo", "prepare", "pretrain", "finetune")
_LABELLED = {"train": "train.csv", "dev": "dev.csv"}


class Verb(NamedTuple):
    """A word of the command line."""

    summary: str
    run: Callable[[list[str]], int]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits with its code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code; mistakes are told on stderr."""
    words = list(arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return EXIT_DONE
    if words[0] == "--version":
        import bertjax

        print(f"bertjax {bertjax.__version__}")
        return EXIT_DONE
    try:
        verb, rest = _find(words)
        return verb.run(rest)
    except UserError as error:
        print(f"bertjax: {error}", file=sys.stderr)
        return EXIT_MISTAKE
    except (KeyboardInterrupt, Stopped):
        if words[0] not in _RESUMABLE or _is_audit(words):
            print("bertjax: interrupted.", file=sys.stderr)
            return EXIT_INTERRUPTED
        how = (
            ", without --fresh and with the --workdir that it began," if "--fresh" in words else ""
        )
        print(f"bertjax: stopped; the same command{how} goes on from there.", file=sys.stderr)
        return EXIT_STOPPED
    except BrokenPipeError:  # `bertjax predict ... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE


def _find(words: list[str]) -> tuple[Verb, list[str]]:
    if words[0] == "tokenizer":
        if words[1:2] == ["train"]:
            return VERBS["tokenizer train"], words[2:]
        if words[1:] and words[1] not in ("-h", "--help"):
            raise UserError(f"tokenizer {words[1]!r} is unknown: use `bertjax tokenizer train`.")
        return VERBS["tokenizer train"], ["--help"]
    if words[0] in VERBS:
        return VERBS[words[0]], words[1:]
    raise UserError(f"{words[0]!r} is not a verb: use one of {', '.join(VERBS)}.")


def _overview() -> str:
    width = max(map(len, VERBS)) + 2
    lines = [f"  {name:<{width}}{verb.summary}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "usage: bertjax VERB [--help] [...]",
            "",
            "Pre-trains and fine-tunes BERT with JAX.",
            "",
            *lines,
            "",
            "A text becomes a model in this order; every verb's --help is enough to use it.",
            "Exit codes: 0 done, 2 a mistake in command or input, 75 stopped and resumable.",
            "Compiled programs are kept for the next command, in a directory that is printed:",
            "JAX_COMPILATION_CACHE_DIR names another, JAX_ENABLE_COMPILATION_CACHE=false none.",
        ]
    )


def _say(line: str) -> None:
    print(line, flush=True)


def _keep_compiled() -> None:
    """Turns the compilation cache on, where it was not switched off, and says where it is."""
    from bertjax.rundir.compilation_cache import keep_compiled

    if told := keep_compiled():
        _say(told)


@contextlib.contextmanager
def _keeping_compiled() -> Iterator[None]:
    """The same where standard output is data: told on stderr, after them."""
    from bertjax.rundir.compilation_cache import keep_compiled

    told = keep_compiled()
    yield
    if told:
        print(told, file=sys.stderr)


def _say_how_to_go_on(verb: str, arguments: list[str], fresh: bool, workdir: object) -> None:
    """The command that resumes a run; one that began with --fresh is resumed without it."""
    words, rest = [], iter(arguments)
    for word in rest:
        if fresh and word == "--workdir":
            next(rest, None)
        elif not (fresh and (word == "--fresh" or word.startswith("--workdir="))):
            words.append(word)
    if fresh:
        words += ["--workdir", str(workdir)]
        words += [] if "--fresh" in arguments else ["--no-fresh"]  # it is in the recipe
    _say(f"To go on: {shlex.join(['bertjax', verb, *words])}")


# The verbs --------------------------------------------------------------------------------------


def _demo(arguments: list[str]) -> int:
    from bertjax.demo.run import DemoConfig, demo
    from bertjax.files import output_directory

    with flags_of(DemoConfig, _say) as say:
        config = parsing.parse(DemoConfig, "demo", arguments)
        output_directory(config.workdir)
        _keep_compiled()
        return EXIT_STOPPED if demo(config, say).stopped else EXIT_DONE


def _tokenizer_train(arguments: list[str]) -> int:
    from bertjax.text.tokenizer_training import TokenizerConfig, train_tokenizer

    with flags_of(TokenizerConfig, _say) as say:
        config = parsing.parse(TokenizerConfig, "tokenizer train", arguments)
        train_tokenizer(config, say)
    following = command(
        "prepare",
        input=config.input if len(config.input) <= 3 else (*config.input[:3], "..."),
        tokenizer=config.output,
        output="data/shards",
        text_feature=None if config.text_feature == "text" else config.text_feature,
        tfds_data_dir=config.tfds_data_dir,
    )
    _say(f"Next: {following}")
    return EXIT_DONE


def _prepare(arguments: list[str]) -> int:
    from bertjax.data.audit import report as audit
    from bertjax.data.prepare.estimate import estimate
    from bertjax.data.prepare.inspection import AuditConfig, audit_data
    from bertjax.data.prepare.run import PrepareConfig, prepare
    from bertjax.files import location

    if _is_audit(arguments):
        with flags_of(AuditConfig, _say) as say:
            audited = parsing.parse(AuditConfig, "prepare --audit", arguments)
            is_clean = all(not report.findings for report in audit_data(audited, say))
        return EXIT_DONE if is_clean or not audited.strict else EXIT_WARNED
    with flags_of(PrepareConfig, _say) as say:
        config = parsing.parse(PrepareConfig, "prepare", arguments)
        if config.estimate:
            estimate(config, say)
            return EXIT_DONE
        prepare(config, say)
    directories = config.directories(location(str(config.output))).values()
    if config.strict and not all(map(audit.is_clean, directories)):
        _say("Exit code 1, by --strict: see the warnings. The shards are finished all the same.")
        return EXIT_WARNED
    place, lengths = str(config.output).rstrip("/"), sorted(config.lengths)
    options: dict[str, object] = {"data": place}
    if len(lengths) > 1:  # nine of ten of the 1,000 steps are short, as in the paper
        options["data"] = f"{place}/{lengths[0]}"
        options |= {"second.data": f"{place}/{lengths[1]}", "second.after_steps": 900}
    _say(f"Next: {command('pretrain', **options, workdir='runs/pretrain')}")
    return EXIT_DONE


def _is_audit(words: list[str]) -> bool:
    return any(word == "--audit" or word.startswith("--audit=") for word in words)


def _pretrain(arguments: list[str]) -> int:
    from bertjax.pretrain.config import PretrainConfig

    with flags_of(PretrainConfig, _say) as say:
        config = parse_recipe(PretrainConfig, "pretrain", arguments)

        from bertjax.pretrain.run import pretrain

        _keep_compiled()
        result = pretrain(config, say)
    if result.stopped:
        _say_how_to_go_on("pretrain", arguments, config.fresh, result.workdir)
        return EXIT_STOPPED
    _say(f"Next: {command('finetune', model=result.workdir, **_LABELLED)}")
    _say(f'  or: echo "the cat [MASK] on the mat." | {command("predict", result.workdir)}')
    return EXIT_DONE


def _convert(arguments: list[str]) -> int:
    from bertjax.convert.run import ConvertConfig, convert
    from bertjax.convert.to_run import MODEL
    from bertjax.data.segments import DEFAULT_SEGMENTS
    from bertjax.inference.predict import can_predict
    from bertjax.objectives.objective import SEGMENTS

    with flags_of(ConvertConfig, _say) as say:
        config = parsing.parse(ConvertConfig, "convert", arguments)
        result = convert(config, say)
    if config.to == "huggingface":
        _say(f"Next: {command('finetune', model=result.dest, **_LABELLED)}")
        verb = "predict" if can_predict(result.kind) else "embed"
        _say(f"  or: {command(verb, result.dest)} < lines.txt")
        return EXIT_DONE
    segments = SEGMENTS[result.objective]
    shards = command(
        "prepare",
        input="text",
        tokenizer=result.dest / "tokenizer",
        output="data/shards",
        segments=None if segments == DEFAULT_SEGMENTS else segments,
        max_seq_length=min(128, result.model.max_position_embeddings),
    )
    options = {
        "model.size": result.dest / MODEL,
        "optimizer.name": result.optimizer,
        "loop.train_steps": result.step + 10_000,
    }
    _say(f"Next: {shards}")
    _say(f"then: {command('pretrain', data='data/shards', workdir=result.dest, **options)}")
    return EXIT_DONE


def _finetune(arguments: list[str]) -> int:
    from bertjax.finetune.config import FinetuneConfig
    from bertjax.task_options import FinetuneArguments

    with flags_of(FinetuneConfig):
        parser = FinetuneArguments(arguments)
    with flags_of(parser.type, _say) as say:
        config = parser.parse()

        from bertjax.finetune.run import finetune

        _keep_compiled()
        result = finetune(config, say)
    if result.stopped:
        _say_how_to_go_on("finetune", arguments, config.fresh, result.workdir)
        return EXIT_STOPPED
    again = {name: getattr(config.task, name) or None for name in config.kind.unrecorded}
    _say(f"Next: {command('evaluate', result.workdir, config.dev, **again)}")
    _say(f"  or: {command('predict', result.workdir)} < lines.txt")
    return EXIT_DONE


def _evaluate(arguments: list[str]) -> int:
    from bertjax.inference import predict
    from bertjax.task_options import evaluate_type
    from bertjax.tasks import kinds

    # The kind of the model decides which options there are.
    is_named = bool(arguments) and not arguments[0].startswith("-")
    model = _load(arguments[0]) if is_named else None
    kind = (model and kinds.of_model(model)) or kinds.get(kinds.DEFAULT)
    type_of_arguments = evaluate_type(arguments, kind)
    with flags_of(type_of_arguments), _keeping_compiled():
        config = parsing.parse(type_of_arguments, "evaluate", arguments)
        model = _load(config.model) if model is None else model
        scores = predict.evaluate(
            model, config.data, batch_size=config.batch_size, **config.options
        )
        _say(json.dumps(scores))
    return EXIT_DONE


def _predict(
    model: str,
    *,
    top_k: int | None = None,
    pseudo_log_likelihood: bool = False,
    batch_size: int = 32,
) -> int:
    """Read lines from standard input and write a JSON line for each.

    A fine-tuned model answers each line. Models of pairs read two texts with a tab between. Models
    that answer questions read {"question": ..., "context": ...} as JSON, or both with a tab
    between; the context may have any length. A model that was only pre-trained fills in the [MASK]
    of each line.

    Args:
        model: Run directory, export, Hugging Face directory, TF1 checkpoint, or name on the hub.
        top_k: Number of words for a [MASK], or of answers to a question. Default: 5.
        pseudo_log_likelihood: Score each line with a pre-trained model: the sum over its tokens of
            log p(token | all others) in nats, each masked alone, and its pseudo-perplexity.
        batch_size: Maximum lines (or masked copies of them) per batch.
    """
    from bertjax.inference.predict import predict_lines

    with _keeping_compiled():
        for line in predict_lines(
            _load(model),
            _stdin(),
            top_k=top_k,
            pseudo_log_likelihood=pseudo_log_likelihood,
            batch_size=batch_size,
        ):
            _say(line)
    return EXIT_DONE


def _embed(
    model: str,
    *,
    layer: tuple[int, ...] = (-1,),
    layer_weights: tuple[float, ...] | None = None,
    pooling: Literal["mean", "cls", "pooler"] = "mean",
    batch_size: int = 32,
) -> int:
    """Read lines from standard input and write a vector for each, as a JSON list.

    Args:
        model: Run directory, export, Hugging Face directory, TF1 checkpoint, or name on the hub.
        layer: Layer to take (0: the embeddings, -1: the last); several are joined.
        layer_weights: A weight for each layer, to sum the layers instead of joining them.
        pooling: mean: of all tokens. cls: the first token. pooler: the pooled output.
        batch_size: Maximum lines per batch.
    """
    from bertjax.inference.embed import embed_lines

    with _keeping_compiled():
        vectors = embed_lines(
            _load(model),
            _stdin(),
            layer=layer,
            pooling=pooling,
            layer_weights=layer_weights,
            batch_size=batch_size,
        )
        for vector in vectors:
            _say(json.dumps([round(float(value), 6) for value in vector]))
    return EXIT_DONE


def _probe(arguments: list[str]) -> int:
    from bertjax.inference.probe import ProbeConfig, probe

    with flags_of(ProbeConfig), _keeping_compiled():
        print(json.dumps(probe(parsing.parse(ProbeConfig, "probe", arguments))))
    return EXIT_DONE


def _report(directories: tuple[str, ...], *, output: str | None = None) -> int:
    """Write the report of runs, or of a demo, from what they measured; several are compared.

    Args:
        directories: Run directories, or demo directories. Each gets its report/index.html.
        output: Page that compares several; left out: report/comparison.html in the first.
    """
    if not directories:
        raise UserError("report: name at least one run directory.")

    from bertjax.files import location
    from bertjax.report.run import report

    page = None if output is None else location(output)
    report(tuple(map(location, directories)), _say, page)
    return EXIT_DONE


def _load(model: str) -> Any:
    from bertjax.interop.huggingface import from_pretrained

    return from_pretrained(model)


def _stdin() -> Iterator[str]:
    """The lines of standard input, without their ends."""
    reader = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", errors="strict", newline="\n")
    number = 1
    while True:
        try:
            line = reader.readline()
        except UnicodeDecodeError as error:
            raise UserError(
                f"Line {number} of standard input, or one after it, is not UTF-8 ({error.reason}): "
                "convert it, for example with iconv."
            ) from None
        if not line:
            return
        yield line.rstrip("\r\n")
        number += 1


VERBS = {
    "demo": Verb("the whole way on the documentation installed here, in minutes", _demo),
    "tokenizer train": Verb("text -> a vocabulary", _tokenizer_train),
    "prepare": Verb("text + vocabulary -> shards", _prepare),
    "pretrain": Verb("shards -> a pre-trained BERT", _pretrain),
    "convert": Verb("a TF1 checkpoint, a model or a run -> another layout", _convert),
    "finetune": Verb("a BERT + labelled files -> a fine-tuned model", _finetune),
    "evaluate": Verb("a fine-tuned model + a labelled file -> scores", _evaluate),
    "predict": Verb(
        "lines -> labels, answers, or words for [MASK]",
        with_positionals(_predict, "predict"),
    ),
    "embed": Verb("lines -> vectors", with_positionals(_embed, "embed")),
    "probe": Verb("a frozen model + labelled rows -> how well its vectors tell the labels", _probe),
    "report": Verb(
        "run directories -> an HTML page each, and one that compares them",
        with_positionals(_report, "report"),
    ),
}


if __name__ == "__main__":
    main()
