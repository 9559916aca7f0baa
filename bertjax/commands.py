"""Commands as a person types them, written with the names of configuration fields."""

import shlex


def flag(field: str) -> str:
    """Returns the flag of a configuration field, which is given by its dotted path."""
    return f"--{field.replace('_', '-')}"


def command(verb: str, *positionals: object, **options: object) -> str:
    """Returns the line that runs a verb, such as "pretrain" or "tokenizer train".

    Options are values by field; a dotted path is given by `**{"loop.train_steps": 10}`. A tuple
    gives several words, a bool the flag or its negation alone. None and () leave the field out.
    """
    words = ["bertjax", *verb.split(), *map(str, positionals)]
    for field, value in options.items():
        if value is None or value == ():
            continue
        if value is False:
            group, dot, name = field.rpartition(".")
            field = f"{group}{dot}no_{name}"
        words.append(flag(field))
        if not isinstance(value, bool):
            words += map(str, value if isinstance(value, tuple) else (value,))
    return shlex.join(words)


def resuming_command(verb: str, arguments: list[str], fresh: bool, workdir: object) -> str:
    """Returns the command that resumes a run, with its workdir in place of --fresh."""
    words, rest = [], iter(arguments)
    for word in rest:
        if fresh and word == "--workdir":
            next(rest, None)
        elif not (fresh and (word == "--fresh" or word.startswith("--workdir="))):
            words.append(word)
    if fresh:
        words += ["--workdir", str(workdir)]
        words += [] if "--fresh" in arguments else ["--no-fresh"]  # the recipe has it
    return shlex.join(["bertjax", verb, *words])


def stopped_sentence(words: list[str]) -> str:
    """Returns the last words of a resumable command that a signal has ended."""
    how = ", without --fresh and with the new --workdir," if "--fresh" in words else ""
    return f"stopped; the same command{how} resumes it."
