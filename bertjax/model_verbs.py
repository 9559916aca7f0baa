"""The verbs that read a trained model: `evaluate`, `predict`, `embed`, `search` and `probe`."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from bertjax.flags import with_flags
from bertjax.parsing import parsed
from bertjax.terminal import complain, say_line


def evaluate(arguments: list[str]) -> None:
    """Prints the scores of a model on a labeled file or on shards."""
    from bertjax.task_options import evaluate_type

    with _with_model("evaluate", evaluate_type, arguments) as (config, model, how):
        from bertjax.inference import predict
        from bertjax.pretrain.held_out import evaluate_shards, is_shards

        if is_shards(config.data):
            size, mesh = how["batch_size"], how["mesh"]
            scores = evaluate_shards(model, config.data, batch_size=size, mesh=mesh)
        else:
            scores = predict.evaluate(model, config.data, **how)
        say_line(json.dumps(scores))


def predict(arguments: list[str]) -> None:
    """Prints a JSON line for each line."""
    from bertjax.task_options import predict_type

    with _with_model("predict", predict_type, arguments) as (config, model, how):
        from bertjax.inference import predict
        from bertjax.inference.texts import open_lines

        with open_lines(config.lines) as lines:
            for line in predict.predict_lines(model, lines, **how):
                say_line(line)


def embed(arguments: list[str]) -> None:
    """Prints or writes a vector for each line."""
    from bertjax.inference.config import EmbedConfig

    with parsed(EmbedConfig, "embed", arguments) as (config, _), _keeping_for_later():
        from bertjax.inference.embed import embed_file

        embed_file(config, say_line, complain)


def search(arguments: list[str]) -> None:
    """Prints a JSON line for each query."""
    from bertjax.inference.config import SearchConfig

    with parsed(SearchConfig, "search", arguments) as (config, _), _keeping_for_later():
        from bertjax.inference.search import search_file

        search_file(config, say_line, complain)


def probe(arguments: list[str]) -> None:
    """Prints the scores of a linear model of vectors."""
    from bertjax.inference.config import ProbeConfig

    with parsed(ProbeConfig, "probe", arguments) as (config, _), _keeping_for_later():
        from bertjax.inference.probe import probe

        say_line(json.dumps(probe(config, note=complain)))


@contextlib.contextmanager
def _with_model(
    verb: str, type_of: Callable[[list[str], Any], type], arguments: list[str]
) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
    """Yields the configuration, the model, and the keyword arguments of answering."""
    from bertjax.interop.huggingface import Pretrained, recorded_task

    # The task of the model decides which options there are. An export or a run names it, so that
    # mistakes in the options are told, and other hosts are joined, before its weights are read.
    named = arguments[0] if arguments and not arguments[0].startswith("-") else None
    task = None if named is None else recorded_task(named)
    known = {"task": task, "kind": task["kind"], "sentence_modules": None} if task else {}
    model = SimpleNamespace(**known) if known else named and _load(named)
    with contextlib.ExitStack() as stack:
        config, _ = stack.enter_context(parsed(type_of(arguments, model), verb, arguments))
        if verb == "evaluate":
            _join(stack, config)
        stack.enter_context(_keeping_for_later())

        from bertjax.inference.programs import mesh_of_all_devices
        from bertjax.tasks.headers import check_file

        if verb == "evaluate":
            check_file(config.data, config.task)
        options = vars(config.task) if model else {}
        how = {"batch_size": config.batch_size, "mesh": mesh_of_all_devices(), **options}
        yield config, model if isinstance(model, Pretrained) else _load(config.model), how


def _join(stack: contextlib.ExitStack, config: Any) -> None:
    """Joins the hosts that evaluate together; all need the same rows."""
    from bertjax.tasks.headers import file_digest
    from bertjax.train.hosts import joined

    settings = dataclasses.asdict(config) | {"file": file_digest(config.data)}

    def say(line: str) -> None:
        complain(with_flags(line, type(config)))

    stack.enter_context(joined(config.hosts, settings, say, resumable=False))


@contextlib.contextmanager
def _keeping_for_later() -> Iterator[None]:
    """Keeps freed memory, and compiled programs; prints their directory on standard error, last."""
    from bertjax.rundir.compilation_cache import keep_compiled
    from bertjax.rundir.freed_memory import keep_freed

    keep_freed()
    told = keep_compiled()
    yield
    if told:
        complain(told)


def _load(model: str) -> Any:
    from bertjax.interop.huggingface import open_pretrained

    return open_pretrained(model)
