"""The command line: one function per verb, and the next or resuming command that it prints. Only
this module exits.

Exit codes: 0 done; 2 a mistake that the user can correct, told in one sentence; 75 stopped early by
a signal and resumable; 1 any other error, with its traceback, and warnings under --strict.
"""

import contextlib
import difflib
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

from bertjax import parsing, signals
from bertjax.commands import command
from bertjax.errors import Stopped, UserError
from bertjax.flags import Say, resuming_command, saying_flags, stopped_sentence
from bertjax.parsing import Config, parse_recipe

EXIT_DONE, EXIT_INTERRUPTED, EXIT_WARNED, EXIT_MISTAKE, EXIT_STOPPED = 0, 1, 1, 2, 75
_RESUMABLE = ("demo", "prepare", "pretrain", "finetune")
_say = functools.partial(print, flush=True)
_LABELED = {"train": "train.csv", "dev": "dev.csv"}
# The fields that --help shows.
_TOKENIZER = ("input", "output", "kind", "vocab_size", "lowercase", "columns")
_PREPARE = (
    *("input", "tokenizer", "output", "segments", "max_seq_length", "dupe_factor", "held_out"),
    *("processes", "estimate", "audit"),
)
_PRETRAIN = (
    *("data", "workdir", "objective", "model.size", "batch_size", "accumulation", "seed", "fresh"),
    *("optimizer.name", "optimizer.learning_rate", "optimizer.warmup_steps", "execution.dtype"),
    *("masking.whole_word", "loop.train_steps", "loop.eval_every", "loop.save_every"),
)
_FINETUNE = (
    *("model", "train", "dev", "test", "workdir", "seeds", "epochs", "batch_size", "fresh"),
    *("max_seq_length", "select", "optimizer.learning_rate", "kind_name", "task"),
)


_OVERVIEW = """\
usage: bertjax VERB [--help] [...]

Pre-trains and fine-tunes BERT with JAX.

{verbs}

The verbs stand in the order of their use. VERB --help describes the most used flags,
VERB --help-all all of them. The group of a flag may be left out where one flag has that
name: --learning-rate is --optimizer.learning-rate.
Exit codes: 0 done, 2 a mistake in the command or its input, 75 stopped, resumable.
Compiled programs are cached in a directory that is printed. Set another one by
JAX_COMPILATION_CACHE_DIR, or none by JAX_ENABLE_COMPILATION_CACHE=false."""


class Verb(NamedTuple):
    """A verb of the command line."""

    summary: str
    run: Callable[[list[str]], int | None]
    """Takes the words after the verb; returns an exit code, or None for 0."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits with its code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not _is_resumable(words):
        sys.exit(run(words))
    with signals.command(EXIT_STOPPED, stopped_sentence(words)):
        code = run(words)
    sys.exit(code)


def _is_resumable(words: list[str]) -> bool:
    return bool(words) and words[0] in _RESUMABLE and not _is_audit(words)


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code; prints mistakes on standard error."""
    words = list(arguments)
    if words[:1] == ["help"] and len(words) > 1:
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help", "--help-all", "help"):
        width = max(map(len, VERBS)) + 2
        lines = [f"  {name:<{width}}{verb.summary}" for name, verb in VERBS.items()]
        print(_OVERVIEW.format(verbs="\n".join(lines)))
        return EXIT_DONE
    if words[0] == "--version":
        import bertjax

        print(f"bertjax {bertjax.__version__}")
        return EXIT_DONE
    try:
        verb, rest = _find(words)
        return verb.run(rest) or EXIT_DONE
    except UserError as error:
        print(f"bertjax: {error}", file=sys.stderr)
        return EXIT_MISTAKE
    except (KeyboardInterrupt, Stopped):
        if not _is_resumable(words):
            print("bertjax: interrupted.", file=sys.stderr)
            return EXIT_INTERRUPTED
        print(f"bertjax: {stopped_sentence(words)}", file=sys.stderr)
        return EXIT_STOPPED
    except BrokenPipeError:  # the reader closed the pipe, as in `bertjax predict ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE


def _find(words: list[str]) -> tuple[Verb, list[str]]:
    """Returns the verb, and the words after it."""
    count = 2 if words[0] == "tokenizer" else 1
    name = " ".join(words[:count])
    if name in VERBS:
        return VERBS[name], words[count:]
    if name in ("tokenizer", "tokenizer -h", "tokenizer --help", "tokenizer --help-all"):
        return VERBS["tokenizer train"], [*words[1:], "--help"]
    near = difflib.get_close_matches(name, VERBS, 1) or difflib.get_close_matches(words[0], VERBS)
    asked = f"did you mean {near[0]}?" if near else f"use one of {', '.join(VERBS)}."
    raise UserError(f"{name!r} is not a verb: {asked}")


def _keep_compiled() -> None:
    """Turns on the compilation cache, unless it is disabled, and prints its directory."""
    from bertjax.rundir.compilation_cache import keep_compiled

    if told := keep_compiled():
        _say(told)


@contextlib.contextmanager
def _keeping_compiled() -> Iterator[None]:
    """Turns on the compilation cache; prints its directory on standard error, after the data."""
    from bertjax.rundir.compilation_cache import keep_compiled

    told = keep_compiled()
    yield
    if told:
        print(told, file=sys.stderr)


@contextlib.contextmanager
def _parsed(
    kind: type[Config], verb: str, arguments: list[str], **options: Any
) -> Iterator[tuple[Config, Say]]:
    """Yields a configuration and a `say` with flags; errors in the block get flags too."""
    with saying_flags(kind, _say) as say:
        yield parsing.parse(kind, verb, arguments, **options), say


def _stopped(verb: str, arguments: list[str], fresh: bool, workdir: object) -> int:
    _say(f"To resume: {resuming_command(verb, arguments, fresh, workdir)}")
    return EXIT_STOPPED


# The verbs --------------------------------------------------------------------------------------


def _demo(arguments: list[str]) -> int:
    from bertjax.demo.run import DemoConfig, demo
    from bertjax.files import output_directory

    with _parsed(DemoConfig, "demo", arguments) as (config, say):
        output_directory(config.workdir)
        _keep_compiled()
        return EXIT_STOPPED if demo(config, say).stopped else EXIT_DONE


def _tokenizer_train(arguments: list[str]) -> None:
    from bertjax.text.tokenizer_training import TokenizerConfig, train_tokenizer

    with _parsed(TokenizerConfig, "tokenizer train", arguments, common=_TOKENIZER) as parsed:
        config, say = parsed
        train_tokenizer(config, say)
    options = {
        "input": config.input if len(config.input) <= 3 else (*config.input[:3], "..."),
        "tokenizer": config.output,
        "output": "data/shards",
        "text_feature": None if config.text_feature == "text" else config.text_feature,
        "tfds_data_dir": config.tfds_data_dir,
    }
    _say(f"Next: {command('prepare', **options)}")


def _prepare(arguments: list[str]) -> int:
    from bertjax.data.audit import report as audit
    from bertjax.data.prepare.estimate import estimate
    from bertjax.data.prepare.inspection import AuditConfig, PrepareArguments, audit_data
    from bertjax.data.prepare.run import prepare
    from bertjax.files import location

    if _is_audit(arguments):
        with _parsed(AuditConfig, "prepare --audit", arguments) as (audited, say):
            is_clean = all(not report.findings for report in audit_data(audited, say))
        return EXIT_DONE if is_clean or not audited.strict else EXIT_WARNED
    with _parsed(PrepareArguments, "prepare", arguments, common=_PREPARE) as (given, say):
        config = given.preparation()
        if config.estimate:
            estimate(config, say)
            return EXIT_DONE
        prepare(config, say)
    directories = config.directories(location(str(config.output))).values()
    if config.strict and not all(map(audit.is_clean, directories)):
        _say("Exit code 1 because of --strict and the warnings above. The shards are complete.")
        return EXIT_WARNED
    place, lengths = str(config.output).rstrip("/"), sorted(config.lengths)
    options: dict[str, object] = {"data": place}
    if len(lengths) > 1:  # the paper trains on short rows in nine of ten steps
        options["data"] = f"{place}/{lengths[0]}"
        options |= {"second.data": f"{place}/{lengths[1]}", "second.after_steps": 900}
    _say(f"Next: {command('pretrain', **options, workdir='runs/pretrain')}")
    return EXIT_DONE


def _is_audit(words: list[str]) -> bool:
    return any(word == "--audit" or word.startswith("--audit=") for word in words)


def _pretrain(arguments: list[str]) -> int:
    from bertjax.pretrain.config import PretrainConfig

    with saying_flags(PretrainConfig, _say) as say:
        config = parse_recipe(PretrainConfig, "pretrain", arguments, common=_PRETRAIN)

        from bertjax.pretrain.run import pretrain

        _keep_compiled()
        result = pretrain(config, say)
    if result.stopped:
        return _stopped("pretrain", arguments, config.fresh, result.workdir)
    _say(f"Next: {command('finetune', model=result.workdir, **_LABELED)}")
    _say(f'  or: echo "the cat [MASK] on the mat." | {command("predict", result.workdir)}')
    return EXIT_DONE


def _convert(arguments: list[str]) -> None:
    from bertjax.convert.run import ConvertConfig, convert
    from bertjax.convert.to_run import MODEL
    from bertjax.inference.predict import can_predict
    from bertjax.objectives.table import OBJECTIVES

    with _parsed(ConvertConfig, "convert", arguments) as (config, say):
        result = convert(config, say)
    if config.to == "huggingface":
        _say(f"Next: {command('finetune', model=result.dest, **_LABELED)}")
        verb = "predict" if can_predict(result.kind) else "embed"
        _say(f"  or: {command(verb, result.dest)} < lines.txt")
        return
    objective = OBJECTIVES[result.objective]
    shards = command(
        "prepare",
        input="text",
        tokenizer=result.dest / "tokenizer",
        output="data/shards",
        segments=objective.segments,
        max_seq_length=min(128, result.model.max_position_embeddings),
    )
    options = {
        "model.size": result.dest / MODEL,
        "objective": objective.name if objective.any_segments else None,
        "optimizer.name": result.optimizer,
        "loop.train_steps": result.step + 10_000,
    }
    _say(f"Next: {shards}")
    _say(f"then: {command('pretrain', data='data/shards', workdir=result.dest, **options)}")


def _finetune(arguments: list[str]) -> int:
    from bertjax.finetune.config import FinetuneConfig
    from bertjax.task_options import FinetuneArguments

    with saying_flags(FinetuneConfig):
        parser = FinetuneArguments(arguments)
    with saying_flags(parser.type, _say) as say:
        config = parser.parse(_FINETUNE)

        from bertjax.finetune.run import finetune

        _keep_compiled()
        result = finetune(config, say)
    if result.stopped:
        return _stopped("finetune", arguments, config.fresh, result.workdir)
    again = {name: getattr(config.task, name) or None for name in config.kind.unrecorded}
    _say(f"Next: {command('evaluate', result.workdir, config.dev, **again)}")
    _say(f"  or: {command('predict', result.workdir)} < lines.txt")
    return EXIT_DONE


def _evaluate(arguments: list[str]) -> None:
    from bertjax.task_options import evaluate_type

    with _with_model("evaluate", evaluate_type, arguments) as (config, model, how):
        from bertjax.inference import predict

        _say(json.dumps(predict.evaluate(model, config.data, **how)))


def _predict(arguments: list[str]) -> None:
    from bertjax.task_options import predict_type

    with _with_model("predict", predict_type, arguments) as (config, model, how):
        from bertjax.inference import predict
        from bertjax.inference.texts import open_lines

        with open_lines(config.lines) as lines:
            for line in predict.predict_lines(model, lines, **how):
                _say(line)


@contextlib.contextmanager
def _with_model(
    verb: str, type_of: Callable[[list[str], Any], type], arguments: list[str]
) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
    """Yields the configuration, the model, and the keyword arguments of answering."""
    from bertjax.interop.huggingface import Pretrained, recorded_task

    # The task of the model decides which options there are. An export names it, so that mistakes in
    # the options are told before its weights are read.
    named = arguments[0] if arguments and not arguments[0].startswith("-") else None
    task = None if named is None else recorded_task(named)
    model = SimpleNamespace(task=task, kind=task["kind"]) if task else named and _load(named)
    with _parsed(type_of(arguments, model), verb, arguments) as (config, _), _keeping_compiled():
        from bertjax.inference.programs import mesh_of_all_devices
        from bertjax.tasks.headers import check_file

        if verb == "evaluate":
            check_file(config.data, config.task)
        options = vars(config.task) if model else {}
        how = {"batch_size": config.batch_size, "mesh": mesh_of_all_devices(), **options}
        yield config, model if isinstance(model, Pretrained) else _load(config.model), how


def _embed(arguments: list[str]) -> None:
    from bertjax.inference.config import EmbedConfig

    with _parsed(EmbedConfig, "embed", arguments) as (config, _), _keeping_compiled():
        from bertjax.inference.embed import embed_file

        embed_file(config, _say, functools.partial(print, file=sys.stderr))


def _probe(arguments: list[str]) -> None:
    from bertjax.inference.config import ProbeConfig

    with _parsed(ProbeConfig, "probe", arguments) as (config, _), _keeping_compiled():
        from bertjax.inference.probe import probe

        print(json.dumps(probe(config)))


def _report(arguments: list[str]) -> None:
    from bertjax.report.run import ReportConfig, report

    with _parsed(ReportConfig, "report", arguments) as (config, say):
        report(config.directories, say, config.output)


def _completion(arguments: list[str]) -> None:
    from bertjax.completion import CompletionConfig, print_completion

    with _parsed(CompletionConfig, "completion", arguments) as (config, _):
        print_completion(config.shell)


def _load(model: str) -> Any:
    from bertjax.interop.huggingface import from_pretrained

    return from_pretrained(model)


VERBS = {
    "demo": Verb("all steps in minutes, on the documentation of installed packages", _demo),
    "tokenizer train": Verb("text -> a vocabulary", _tokenizer_train),
    "prepare": Verb("text + vocabulary -> shards", _prepare),
    "pretrain": Verb("shards -> a pre-trained BERT", _pretrain),
    "convert": Verb("a TF1 checkpoint, a model or a run -> another layout", _convert),
    "finetune": Verb("a BERT + labeled files -> a fine-tuned model", _finetune),
    "evaluate": Verb("a fine-tuned model + a labeled file -> scores", _evaluate),
    "predict": Verb("lines -> labels, answers, or words for [MASK]", _predict),
    "embed": Verb("lines -> vectors", _embed),
    "probe": Verb("a frozen model + labeled rows -> scores of a linear model", _probe),
    "report": Verb("run directories -> a page per run, and a page that compares them", _report),
    "completion": Verb("a shell -> the script that completes verbs and flags in it", _completion),
}


if __name__ == "__main__":
    main()
