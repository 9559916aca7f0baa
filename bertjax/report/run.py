"""`report`: what a run came to, as one HTML file that needs no network, with the curves as PNG."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from bertjax.config import read_json_object
from bertjax.errors import UserError
from bertjax.files import writing
from bertjax.pretrain import frequency
from bertjax.report import comparison, html
from bertjax.report.html import Bar, Line
from bertjax.rundir.records import (
    CONFIG,
    KINDS,
    metric_names,
    points_of,
    read_records,
    run_files,
)

Log = Callable[[str], None]

REPORT, NUMBERS, STORY, PAGE = "report", "numbers.json", "story.json", "index.html"
COMPARISON = "comparison.html"


def report(
    directories: Sequence[epath.PathLike], log: Log, output: epath.PathLike | None = None
) -> list[epath.Path]:
    """Writes report/index.html, and a PNG of every curve, into run directories; and of several
    directories one page that compares their runs.

    Args:
        directories: of pre-training, of fine-tuning, or of the demo.
        log: is given one line for each page.
        output: the page that compares; by default report/comparison.html in the first directory.

    Returns:
        The pages, in the order of the directories; then the one that compares.

    Raises:
        UserError: a directory that holds no run or is named twice, or `output` for a single one.
    """
    named = [epath.Path(directory) for directory in directories]
    if twice := {str(path) for path in named if named.count(path) > 1}:
        raise UserError(f"{min(twice)}: is named twice; name every directory once.")
    if output is not None and len(named) < 2:
        raise UserError(
            f"{output}: --output is the page that compares directories; name at least two of them."
        )
    pages = []
    for directory in named:
        if (directory / REPORT / STORY).exists():
            if not (directory / REPORT / NUMBERS).exists():
                raise UserError(
                    f"{directory / REPORT / NUMBERS}: no such file; the same `bertjax demo` again "
                    "writes it."
                )
            numbers, story = (
                read_json_object(directory / REPORT / name) for name in (NUMBERS, STORY)
            )
            pages.append(write_demo_report(directory, numbers, story, log))
        else:
            pages.append(_write_run_report(directory, log))
        log(f"Wrote {pages[-1]}.")
    if len(named) > 1:
        target = named[0] / REPORT / COMPARISON if output is None else epath.Path(output)
        pages.append(comparison.write_comparison(named, target))
        log(f"Wrote {target}, which compares them.")
    return pages


def verdict(numbers: dict[str, Any]) -> str:
    """The demo's result in one sentence: its terminal's last and its report's first."""
    few = numbers["labels_few"]
    gain, error = numbers["gain"], numbers["gain_error"]
    gain_few, error_few = numbers["gain_few"], numbers["gain_error_few"]
    clear = gain > 2 * error and gain_few > 2 * error_few
    worse = gain < -2 * error and gain_few < -2 * error_few
    lead = "lifts" if clear else "lowers" if worse else "does not clearly lift"
    wins = numbers["accuracy_tfidf"] > numbers["accuracy_pretrained"]
    wins_few = numbers["accuracy_tfidf_few"] > numbers["accuracy_pretrained_few"]
    tfidf = {
        (True, True): "TF-IDF with logistic regression beats it with either",
        (True, False): f"TF-IDF with logistic regression beats it with all labels, not with {few}",
        (False, True): f"TF-IDF with logistic regression beats it with {few}, not with all",
        (False, False): "TF-IDF with logistic regression is behind",
    }[wins, wins_few]
    return (
        f"Pre-training on {numbers['words'] / 1e6:.1f} million words of this machine's own "
        f"documentation {lead} a small BERT from {_percent(numbers['accuracy_scratch'])} to "
        f"{_percent(numbers['accuracy_pretrained'])} ({_points_of(gain, error)}) at telling "
        f"{len(numbers['labels'])} packages apart from {numbers['labels_all']} labelled passages "
        f"of each, and from {_percent(numbers['accuracy_scratch_few'])} to "
        f"{_percent(numbers['accuracy_pretrained_few'])} ({_points_of(gain_few, error_few)}) from "
        f"{few}; {tfidf} ({_percent(numbers['accuracy_tfidf'])} and "
        f"{_percent(numbers['accuracy_tfidf_few'])})."
    )


def why(numbers: dict[str, Any]) -> str:
    """What to make of TF-IDF's result."""
    if numbers["accuracy_tfidf"] > numbers["accuracy_pretrained"]:
        return (
            "Why counting words wins here: this BERT has read "
            f"{numbers['words'] / 1e6:.1f} million words in minutes, the original one 3.3 billion "
            "in days, and packages give themselves away by their vocabulary. bertjax demo "
            "--minutes 60 shows whether the gap closes."
        )
    return (
        "TF-IDF counts words and word pairs; it has read the labelled passages only, where BERT "
        "has also read the text without labels."
    )


def write_demo_report(
    workdir: epath.PathLike, numbers: dict[str, Any], story: dict[str, Any], log: Log
) -> epath.Path:
    """Writes the demo's report/: index.html, numbers.json, story.json and PNG curves.

    Args:
        workdir: of the demo.
        numbers: as `runs.demo` gathers them; written as they are.
        story: `curve` (records of metrics.jsonl), `fills` (moments with the sentences' likeliest
            words), `predictions`, `commands`, all JSON.
        log: told if the PNG need a package that isn't there.

    Returns:
        The page.
    """
    directory = epath.Path(workdir) / REPORT
    body = [*_first_screen(numbers, story), *_details(numbers, story)]
    target = directory / PAGE
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / STORY).write_text(json.dumps(story, indent=1, ensure_ascii=False) + "\n")
        (directory / NUMBERS).write_text(json.dumps(numbers, indent=2, ensure_ascii=False) + "\n")
        target.write_text(html.page("bertjax demo", body))
    references = {"mlm_loss": ("unigram entropy", numbers["unigram_entropy"])}
    references["nsp_accuracy"] = ("majority", numbers["majority"])
    write_pngs(directory, story["curve"], references, log)
    return target


def _first_screen(numbers: dict[str, Any], story: dict[str, Any]) -> list[str]:
    few = numbers["labels_few"]
    seeds = len(numbers["seeds"])
    both = {suffix: _bars(numbers, suffix) for suffix in ("", "_few")}
    most = max(bar.value for bars in both.values() for bar in bars)  # one scale for both
    return [
        '<p class="kicker">bertjax demo</p>',
        f"<h1>{html.text(verdict(numbers))}</h1>",
        '<div class="pair">',
        html.figure(
            html.bars(both[""], "Accuracy with all labels", most),
            f"{numbers['labels_all']} labelled passages of each package: accuracy on "
            f"{numbers['test_rows']:,} passages of source files that were held out. Whiskers: "
            f"standard deviation over {seeds} seeds of fine-tuning one pre-trained model.",
        ),
        html.figure(
            html.bars(both["_few"], f"Accuracy with {few} labels", most),
            f"{few} labelled passages of each package, the same test.",
        ),
        "</div>",
        html.paragraph(why(numbers), "note"),
        html.heading("Filling in the blank"),
        _fills(story["fills"]),
        html.heading("What it learned from the text alone"),
        html.figure(
            html.curves(
                [
                    Line("held out", points_of(story["curve"], "eval", "mlm_loss")),
                    Line("training", points_of(story["curve"], "train", "mlm_loss"), "second"),
                ],
                "Masked-LM loss",
                references=[("unigram entropy", numbers["unigram_entropy"])],
            ),
            f"Loss of guessing masked tokens, in nats: {numbers['mlm_loss']:.2f} on held-out text "
            "at the end. Knowing only how often each token occurs gives "
            f"{numbers['unigram_entropy']:.2f}. Does sentence B follow sentence A? "
            f"{numbers['nsp_accuracy']:.1%} right, where always giving the commoner answer is "
            f"{numbers['majority']:.1%}.",
        ),
        html.heading("Now with your text"),
        html.paragraph(
            "Raw text becomes a BERT, and that BERT a classifier, by these; every one tells the "
            "next, explains itself with --help, and goes on where it was when given again."
        ),
        html.commands(story["commands"]),
    ]


def _bars(numbers: dict[str, Any], suffix: str) -> list[Bar]:
    return [
        Bar(
            label,
            numbers[f"accuracy_{name}{suffix}"],
            numbers[f"accuracy_{name}_deviation{suffix}"],
            color,
        )
        for label, name, color in (
            ("pre-trained", "pretrained", "accent"),
            ("from scratch", "scratch", "second"),
            ("TF-IDF", "tfidf", "third"),
        )
    ]


def _fills(fills: Sequence[dict[str, Any]]) -> str:
    """The sentences by rows, the moments by columns."""
    header = ["", *(moment["when"] for moment in fills)]
    rows = []
    for number, sentence in enumerate(fills[0]["sentences"] if fills else ()):
        blank = html.text(sentence["text"]).replace("[MASK]", '<span class="blank"></span>')
        cells = [
            '<span class="words">'
            + ", ".join(
                f"<b>{html.text(token)}</b>" if place == 0 else html.text(token)
                for place, (token, _) in enumerate(moment["sentences"][number]["tokens"])
            )
            + "</span>"
            for moment in fills
        ]
        rows.append([blank, *cells])
    return html.table(header, rows)


def _details(numbers: dict[str, Any], story: dict[str, Any]) -> list[str]:
    predictions = [
        [
            f"<small>{html.text(item['text'])}</small>",
            html.text(item["label"]),
            f'<span class="{"right" if item["said"] == item["label"] else "wrong"}">'
            f"{html.text(item['said'])}</span> {item['score']:.0%}",
        ]
        for item in story["predictions"]
    ]
    seconds = numbers["seconds_by_phase"]
    return [
        html.heading("Passages it has never seen"),
        html.table(["passage", "package", "the pre-trained BERT says"], predictions),
        html.heading("How it was measured"),
        *(html.paragraph(line) for line in story["method"]),
        html.table(
            ["", "pre-trained", "from scratch", "TF-IDF"],
            _accuracy_rows(numbers),
            numbers=(1, 2, 3),
        ),
        html.heading("Where the time went"),
        html.table(
            ["phase", "seconds"],
            [[html.text(phase), f"{value:,.0f}"] for phase, value in seconds.items()]
            + [["<b>in all</b>", f"<b>{numbers['seconds']:,.0f}</b>"]],
            numbers=(1,),
        ),
        html.paragraph(
            f"On {numbers['device']}; "
            + ", ".join(f"{name} {version}" for name, version in numbers["versions"].items())
            + f". Corpus {numbers['corpus_sha256'][:16]}, seeds {numbers['seeds']}. All of it: "
            f"{NUMBERS} beside this page.",
            "note",
        ),
    ]


def _accuracy_rows(numbers: dict[str, Any]) -> list[list[str]]:
    names = ("pretrained", "scratch", "tfidf")
    rows = []
    for suffix, count in (("", numbers["labels_all"]), ("_few", numbers["labels_few"])):
        cells = []
        for name in names:
            deviation = numbers[f"accuracy_{name}_deviation{suffix}"]
            said = _percent(numbers[f"accuracy_{name}{suffix}"])
            cells.append(said if deviation is None else f"{said} ± {_percent(deviation)}")
        rows.append([f"{count} labels a package", *cells])
    return rows


def _points_of(gain: float, error: float) -> str:
    return f"{100 * gain:+.1f} ± {100 * error:.1f} points"


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _write_run_report(directory: epath.Path, log: Log) -> epath.Path:
    """The page of a run directory: a curve for each metric of metrics.jsonl, and its settings."""
    runs = run_files(directory)
    body = [f'<p class="kicker">bertjax</p><h1>{html.text(directory.name)}</h1>']
    target = directory / REPORT
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
    for name, path in runs:
        records = read_records(path)
        if len(runs) > 1:
            body.append(html.heading(name))
        body += ['<div class="pair">', *_run_figures(records), "</div>"]
        write_pngs(target, records, {}, log, prefix="" if len(runs) == 1 else f"{name}-")
    if (directory / CONFIG).exists():
        text = (directory / CONFIG).read_bytes().decode(errors="replace")
        body += [html.heading("Settings"), html.commands(text.rstrip().split("\n"))]
    with writing(target):
        (target / PAGE).write_text(html.page(f"bertjax: {directory.name}", body))
    return target / PAGE


def _run_figures(records: list[dict[str, Any]]) -> list[str]:
    figures = []
    names = metric_names(records)
    groups = [name for name in names if name.startswith(frequency.METRIC)]
    for name in (name for name in names if name not in groups):
        lines = [
            Line(KINDS[kind], points, color)
            for kind, color in (("train", "second"), ("eval", "accent"))
            if (points := points_of(records, kind, name))
        ]
        figures.append(html.figure(html.curves(lines, name), name))
    if groups:
        said = "mlm_accuracy, held out, by the rank of the masked token among the most frequent"
        lines = [
            Line(
                name.removeprefix(frequency.METRIC).replace("_", " to "),
                points_of(records, "eval", name),
                *html.color_of(number),
            )
            for number, name in enumerate(groups)
        ]
        figures.append(html.figure(html.curves(lines, said), said))
    return figures


def write_pngs(
    directory: epath.Path,
    records: Sequence[dict[str, Any]],
    references: dict[str, tuple[str, float]],
    log: Log,
    prefix: str = "",
) -> list[epath.Path]:
    """A PNG for each metric that has a curve; none, and a word about it, without Matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        log("Curves as PNG need Matplotlib: pip install 'bertjax[demo]', then bertjax report.")
        return []
    written = []
    for name in metric_names(records):
        picture = Figure(figsize=(6.4, 3.6), layout="constrained")
        FigureCanvasAgg(picture)
        axes = picture.add_subplot()
        for kind, color in (("train", "#b0aa9f"), ("eval", "#1f6f8b")):
            if points := points_of(records, kind, name):
                steps, values = zip(*points, strict=True)
                axes.plot(steps, values, color=color, label=KINDS[kind])
        if name in references and math.isfinite(references[name][1]):
            label, value = references[name]
            axes.axhline(value, color="#c98a3d", linestyle="--", label=label)
        axes.set_xlabel("steps")
        axes.set_ylabel(name)
        axes.legend(frameon=False)
        path = directory / f"{prefix}{name}.png"
        with writing(path), path.open("wb") as file:
            picture.savefig(file, format="png", dpi=150)
        written.append(path)
    return written
