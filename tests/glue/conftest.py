"""A small GLUE directory in the layout of the official download, whose labels a model can learn."""

import random

import pytest

WORDS = {"1": ("good", "great", "fine"), "0": ("bad", "awful", "poor")}
ENTAILED = {"1": "entailment", "0": "not_entailment"}


def texts(generator, label):
    """Two texts; quotes mean nothing."""
    words = generator.choices(WORDS[label], k=generator.randint(1, 3))
    return f'the "film was {words[0]}', f"a {' '.join(words)} plot"


def rows_of(task, count, seed, *, labeled):
    """Lines of a file of a task."""
    generator, lines = random.Random(seed), []
    header = {
        "CoLA": None if labeled else "index\tsentence",
        "SST-2": "sentence\tlabel" if labeled else "index\tsentence",
        "MRPC": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String"
        if labeled
        else "index\t#1 ID\t#2 ID\t#1 String\t#2 String",
        "STS-B": "index\tgenre\tsentence1\tsentence2" + "\tscore" * labeled,
        "QQP": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
        if labeled
        else "id\tquestion1\tquestion2",
        "MNLI": "index\tpromptID\tsentence1\tsentence2" + "\tlabel1\tgold_label" * labeled,
        "QNLI": "index\tquestion\tsentence" + "\tlabel" * labeled,
        "RTE": "index\tsentence1\tsentence2" + "\tlabel" * labeled,
        "WNLI": "index\tsentence1\tsentence2" + "\tlabel" * labeled,
    }[task]
    for index in range(count):
        label = generator.choice("01")
        a, b = texts(generator, label)
        mnli = generator.choice(["neutral", ENTAILED["1"], "contradiction"])
        score = f"{4 if label == '1' else 1}.{generator.randint(0, 9)}00"
        fields = {
            "CoLA": ["gj04", label, "", a] if labeled else [str(index), a],
            "SST-2": [a, label] if labeled else [str(index), a],
            "MRPC": [label if labeled else str(index), "1", "2", a, b],
            "STS-B": [str(index), "news", a, b] + [score] * labeled,
            "QQP": [str(index), "1", "2", a, b, label] if labeled else [str(index), a, b],
            "MNLI": [str(index), "1", a, b] + [mnli, mnli] * labeled,
            "QNLI": [str(index), a, b] + [ENTAILED[label]] * labeled,
            "RTE": [str(index), a, b] + [ENTAILED[label]] * labeled,
            "WNLI": [str(index), a, b] + [label] * labeled,
        }[task]
        lines.append("\t".join(fields))
    return [*([header] if header else []), *lines]


def write_task(directory, task, *, files=None, count=48):
    """Writes the files of a task."""
    names = ["train.tsv", "dev.tsv", "test.tsv"]
    if task == "MNLI":
        ends = ("matched", "mismatched")
        names = ["train.tsv", *(f"{part}_{end}.tsv" for part in ("dev", "test") for end in ends)]
    for seed, name in enumerate(names if files is None else files):
        rows = count if name == "train.tsv" else 16
        lines = rows_of(task, rows, seed, labeled=not name.startswith("test"))
        path = directory / task / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\r\n" for line in lines), encoding="utf-8")


@pytest.fixture(scope="session")
def write_glue():
    """Writes the files of tasks, and the diagnostic set beside those of MNLI."""

    def write(directory, tasks, **options):
        for task in tasks:
            write_task(directory, task, **options)
            if task == "MNLI":
                lines = rows_of("MNLI", 11, 9, labeled=False)
                (directory / "diagnostic").mkdir()
                (directory / "diagnostic" / "diagnostic.tsv").write_text("\n".join(lines) + "\n")
        return directory

    return write
