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
