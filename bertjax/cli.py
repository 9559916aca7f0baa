"""The command line: one function per verb, and the next or resuming command that it prints. Only
this module exits; on several hosts `train.host_links` ends a process whose peers have ended.

Exit codes: 0 done; 2 a mistake that the user can correct, told in one sentence; 75 stopped early by
a signal and resumable; 1 any other error, with its traceback, and warnings under --strict.
"""

import contextlib
import dataclasses
import difflib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bertjax import model_verbs, signals
from bertjax.commands import command
from bertjax.errors import EXIT_MISTAKE, EXIT_STOPPED, Stopped, UserError
from bertjax.flags import resuming_command, saying_flags, stopped_sentence
from bertjax.parsing import COMMON, PLAN_COMMON, parse, parse_recipe, parsed, read_recipe
from bertjax.terminal import Complaints, complain, say_line
from bertjax.train.telemetry import goodput

EXIT_DONE, EXIT_INTERRUPTED, EXIT_WARNED = 0, 1, 1
_RUNS = ("pretrain", "finetune")  # verbs whose time before the first step belongs to their run
_RESUMABLE = ("demo", "prepare", "pretrain", "finetune", "glue")
_LABELED = {"train": "train.csv", "dev": "dev.csv"}


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
    logger = logging.getLogger("bertjax")
    logger.handlers, logger.propagate = [Complaints()], False
    if not _is_resumable(words):
        sys.exit(run(words))
    counted = goodput.command() if words[0] in _RUNS else contextlib.nullcontext()
    with counted, signals.command(EXIT_STOPPED, stopped_sentence(words)):
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
        complain(f"bertjax: {error}")
        return EXIT_MISTAKE
    except (KeyboardInterrupt, Stopped):
        if not _is_resumable(words):
            complain("bertjax: interrupted.")
            return EXIT_INTERRUPTED
        complain(f"bertjax: {stopped_sentence(words)}")
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


def _keep_for_later() -> None:
    """Keeps freed memory, and compiled programs unless that is disabled; prints their directory."""
    from bertjax.rundir.compilation_cache import keep_compiled
    from bertjax.rundir.freed_memory import keep_freed

    keep_freed()
    if told := keep_compiled():
        say_line(told)


def _stopped(verb: str, arguments: list[str], fresh: bool, workdir: object) -> int:
    say_line(f"To resume: {resuming_command(verb, arguments, fresh, workdir)}")
    return EXIT_STOPPED


# The verbs --------------------------------------------------------------------------------------


def _demo(arguments: list[str]) -> int:
    from bertjax.demo.run import DemoConfig, demo
    from bertjax.files import output_directory

    with parsed(DemoConfig, "demo", arguments) as (config, say):
        output_directory(config.workdir)
        _keep_for_later()
        return EXIT_STOPPED if demo(config, say).stopped else EXIT_DONE


def _tokenizer_train(arguments: list[str]) -> None:
    from bertjax.text.tokenizer_training import TokenizerConfig, train_tokenizer

    common = COMMON["tokenizer train"]
    with parsed(TokenizerConfig, "tokenizer train", arguments, common=common) as (config, say):
        train_tokenizer(config, say)
    options = {
        "input": config.input if len(config.input) <= 3 else (*config.input[:3], "..."),
        "tokenizer": config.output,
        "output": "data/shards",
        "text_feature": None if config.text_feature == "text" else config.text_feature,
        "tfds_data_dir": config.tfds_data_dir,
    }
    say_line(f"Next: {command('prepare', **options)}")


def _prepare(arguments: list[str]) -> int:
    from bertjax.data.audit import report as audit
    from bertjax.data.prepare.estimate import estimate
    from bertjax.data.prepare.inspection import AuditConfig, PrepareArguments, audit_data
    from bertjax.data.prepare.run import prepare
    from bertjax.files import location

    if _is_audit(arguments):
        with parsed(AuditConfig, "prepare --audit", arguments) as (audited, say):
            is_clean = all(not report.findings for report in audit_data(audited, say))
        return EXIT_DONE if is_clean or not audited.strict else EXIT_WARNED
    with parsed(PrepareArguments, "prepare", arguments, common=COMMON["prepare"]) as (given, say):
        config = given.preparation()
        if config.estimate:
            estimate(config, say)
            return EXIT_DONE
        prepare(config, say)
    directories = config.directories(location(str(config.output))).values()
    if config.strict and not all(map(audit.is_clean, directories)):
        say_line("Exit code 1 because of --strict and the warnings above. The shards are complete.")
        return EXIT_WARNED
    place, lengths = str(config.output).rstrip("/"), sorted(config.lengths)
    options: dict[str, object] = {"data": place}
    if len(lengths) > 1:  # the paper trains on short rows in nine of ten steps
        options["data"] = f"{place}/{lengths[0]}"
        options |= {"second.data": f"{place}/{lengths[1]}", "second.after_steps": 900}
    say_line(f"Next: {command('pretrain', **options, workdir='runs/pretrain')}")
    return EXIT_DONE


def _is_audit(words: list[str]) -> bool:
    return any(word == "--audit" or word.startswith("--audit=") for word in words)


def _pretrain(arguments: list[str]) -> int:
    from bertjax.pretrain.config import PretrainConfig

    with saying_flags(PretrainConfig, say_line) as say:
        config = parse_recipe(PretrainConfig, "pretrain", arguments, common=COMMON["pretrain"])

        from bertjax.inference.predict import can_predict
        from bertjax.pretrain.run import pretrain
        from bertjax.train.hosts import joined

        with joined(config.hosts, dataclasses.asdict(config), say):
            _keep_for_later()
            result = pretrain(config, say)
    if result.stopped:
        return _stopped("pretrain", arguments, config.fresh, result.workdir)
    say_line(f"Next: {command('finetune', model=result.workdir, **_LABELED)}")
    if can_predict(result.kind):
        say_line(f'  or: echo "the cat [MASK] on the mat." | {command("predict", result.workdir)}')
    else:
        say_line(f"  or: {command('embed', result.workdir)} < lines.txt")
    return EXIT_DONE


def _plan(arguments: list[str]) -> None:
    from bertjax.finetune.config import FinetuneConfig
    from bertjax.glue.config import GlueConfig
    from bertjax.plan.config import FinetunePlan, GluePlan, PlanConfig
    from bertjax.pretrain.config import PretrainConfig
    from bertjax.task_options import FinetuneArguments

    kinds = (PretrainConfig, FinetuneConfig, GlueConfig)
    verb, recipe, flags = read_recipe("plan", arguments, *kinds)
    kind = GluePlan if isinstance(recipe, GlueConfig) else PlanConfig
    with saying_flags(
        FinetunePlan if isinstance(recipe, FinetuneConfig) else kind, say_line
    ) as say:
        if isinstance(recipe, FinetuneConfig):
            arguments_of = FinetuneArguments(verb, recipe, flags, FinetunePlan)
            config: Any = arguments_of.parse((*PLAN_COMMON, *COMMON["finetune"], "accumulation"))
        else:
            glue = (*PLAN_COMMON, *COMMON["glue"])
            common = COMMON["plan"] if kind is PlanConfig else glue
            default = recipe and kind(**vars(recipe))
            how = {"default": default, "common": common, "recipe_kind": PretrainConfig}
            config = parse(kind, verb, flags, **how)

        from bertjax.plan.run import plan

        plan(config, arguments, say, complain)


def _convert(arguments: list[str]) -> None:
    from bertjax.convert.run import ConvertConfig, convert
    from bertjax.convert.to_run import MODEL
    from bertjax.inference.predict import can_predict
    from bertjax.objectives.table import OBJECTIVES

    with parsed(ConvertConfig, "convert", arguments) as (config, say):
        result = convert(config, say)
    if config.to == "huggingface":
        say_line(f"Next: {command('finetune', model=result.dest, **_LABELED)}")
        verb = "predict" if can_predict(result.kind) else "embed"
        say_line(f"  or: {command(verb, result.dest)} < lines.txt")
        return
    if config.to == "tf1":
        files = f"--bert_config_file={result.dest}/bert_config.json"
        files += f" --init_checkpoint={result.dest}/bert_model.ckpt"
        say_line(f"Next, in google-research/bert: python run_pretraining.py {files} ...")
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
    say_line(f"Next: {shards}")
    say_line(f"then: {command('pretrain', data='data/shards', workdir=result.dest, **options)}")


def _finetune(arguments: list[str]) -> int:
    from bertjax.finetune.config import FinetuneConfig
    from bertjax.task_options import FinetuneArguments

    with saying_flags(FinetuneConfig):
        parser = FinetuneArguments(*read_recipe("finetune", arguments, FinetuneConfig))
    with saying_flags(parser.type, say_line) as say:
        config = parser.parse(COMMON["finetune"])

        from bertjax.finetune.run import finetune
        from bertjax.train.hosts import joined

        with joined(config.hosts, config.to_dict(), say):
            _keep_for_later()
            result = finetune(config, say)
    if result.stopped:
        return _stopped("finetune", arguments, config.fresh, result.workdir)
    again = {name: getattr(config.task, name) or None for name in config.kind.unrecorded}
    say_line(f"Next: {command('evaluate', result.workdir, config.dev, **again)}")
    say_line(f"  or: {command(config.kind.next_verb, result.workdir)} < lines.txt")
    return EXIT_DONE


def _glue(arguments: list[str]) -> int:
    from bertjax.glue.config import GlueConfig

    with parsed(GlueConfig, "glue", arguments, common=COMMON["glue"]) as (config, say):
        from bertjax.glue.run import glue
        from bertjax.train.hosts import joined

        with joined(config.hosts, dataclasses.asdict(config), say):
            _keep_for_later()
            result = glue(config, say)
    if result.stopped:
        return _stopped("glue", arguments, False, result.workdir)
    say_line(f"For the leaderboard: {result.submission}")
    return EXIT_DONE


def _report(arguments: list[str]) -> None:
    from bertjax.report.run import ReportConfig, report

    with parsed(ReportConfig, "report", arguments) as (config, say):
        report(config.directories, say, config.output)


def _doctor(arguments: list[str]) -> int:
    from bertjax.doctor.run import DoctorConfig, doctor

    with parsed(DoctorConfig, "doctor", arguments) as (config, say):
        return EXIT_DONE if doctor(config, say, complain) else EXIT_WARNED


def _completion(arguments: list[str]) -> None:
    from bertjax.completion import CompletionConfig, print_completion

    with parsed(CompletionConfig, "completion", arguments) as (config, _):
        print_completion(config.shell)


VERBS = {
    "demo": Verb("all steps in minutes, on the documentation of installed packages", _demo),
    "tokenizer train": Verb("text -> a vocabulary", _tokenizer_train),
    "prepare": Verb("text + vocabulary -> shards", _prepare),
    "pretrain": Verb("shards -> a pre-trained BERT", _pretrain),
    "plan": Verb("a recipe + a TPU topology -> memory, time and price of a run", _plan),
    "convert": Verb("a TF1 checkpoint, a model or a run -> another layout", _convert),
    "finetune": Verb("a BERT + labeled files -> a fine-tuned model", _finetune),
    "glue": Verb("a BERT + the GLUE benchmark -> a table and a submission", _glue),
    "evaluate": Verb("a model + a labeled file, or shards -> scores", model_verbs.evaluate),
    "predict": Verb("lines -> labels, answers, or words for [MASK]", model_verbs.predict),
    "embed": Verb("lines -> vectors", model_verbs.embed),
    "search": Verb("queries + lines of text -> the most similar lines", model_verbs.search),
    "probe": Verb("a frozen model + labeled rows -> scores of a linear model", model_verbs.probe),
    "report": Verb("run directories -> a page per run, and a page that compares them", _report),
    "doctor": Verb("this machine -> what keeps it from training, and what to do", _doctor),
    "completion": Verb("a shell -> the script that completes verbs and flags in it", _completion),
}


if __name__ == "__main__":
    main()
