"""The report of `bertjax demo`: its result, the figures behind it, and how they were measured."""

import json
from collections.abc import Sequence
from typing import Any

from etils import epath

from bertjax.files import writing
from bertjax.report import html
from bertjax.report.charts import charts_of
from bertjax.report.html import Bar
from bertjax.rundir.records import REPORT, STORY, Metric

NUMBERS, PAGE = "numbers.json", "index.html"
_SUFFIXES = {"": "labels_all", "_few": "labels_few", "_fewest": "labels_fewest"}
"""Ends of the names of numbers that depend on the labels, and the number of labels of each."""


def write_demo_report(
    workdir: epath.PathLike, numbers: dict[str, Any], story: dict[str, Any]
) -> epath.Path:
    """Writes index.html, numbers.json and story.json to the demo's report/ and returns the page.

    `numbers` and `story` are what the functions of these names in `demo.summary` return.
    """
    directory = epath.Path(workdir) / REPORT
    metrics = {each["name"]: Metric(**each) for each in story["metrics"]}
    main = charts_of(story["curve"], metrics)[0]
    learned = html.figure(main.picture(), _learned(numbers, metrics))
    body = [*_first_screen(numbers, story, learned), *_details(numbers, story)]
    target = directory / PAGE
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / STORY).write_text(json.dumps(story, indent=1, ensure_ascii=False) + "\n")
        (directory / NUMBERS).write_text(json.dumps(numbers, indent=2, ensure_ascii=False) + "\n")
        target.write_text(html.page("bertjax demo", body))
    return target


def verdict(numbers: dict[str, Any]) -> str:
    """Returns the demo's result in one sentence."""
    gains = [(numbers[f"gain{rows}"], 2 * numbers[f"gain_error{rows}"]) for rows in _SUFFIXES]
    better = all(gain > margin for gain, margin in gains)
    worse = all(gain < -margin for gain, margin in gains)
    lead = "lifts" if better else "lowers" if worse else "does not clearly lift"
    tfidf = [f"{numbers[f'accuracy_tfidf{suffix}']:.1%}" for suffix in _SUFFIXES]
    return (
        f"Pre-training on {numbers['words'] / 1e6:.1f} million words of this machine's own "
        f"documentation {lead} a small BERT {_gain(numbers, '')} at telling "
        f"{len(numbers['labels'])} packages apart from {numbers['labels_all']} labeled passages "
        f"of each, {_gain(numbers, '_few')} from {numbers['labels_few']}, and "
        f"{_gain(numbers, '_fewest')} from {numbers['labels_fewest']}; TF-IDF with logistic "
        f"regression has {tfidf[0]}, {tfidf[1]} and {tfidf[2]}."
    )


def _gain(numbers: dict[str, Any], suffix: str) -> str:
    scratch, pretrained, gain, error = (
        numbers[f"{name}{suffix}"]
        for name in ("accuracy_scratch", "accuracy_pretrained", "gain", "gain_error")
    )
    return f"from {scratch:.1%} to {pretrained:.1%} ({100 * gain:+.1f} ± {100 * error:.1f} points)"


def why(numbers: dict[str, Any]) -> str:
    """Says where TF-IDF wins, and why."""
    wins = [
        f"{numbers[labels]}"
        for suffix, labels in _SUFFIXES.items()
        if numbers[f"accuracy_tfidf{suffix}"] > numbers[f"accuracy_pretrained{suffix}"]
    ]
    if wins:
        return (
            f"Why counting words wins with {' and '.join(wins)} labels: this BERT has read "
            f"{numbers['words'] / 1e6:.1f} million words in minutes, the original one 3.3 billion "
            "in days, and packages give themselves away by their vocabulary. A demo of 60 minutes "
            "shows whether the gap closes."
        )
    return (
        "TF-IDF counts words and word pairs. It has read the labeled passages only; BERT has also "
        "read the text without labels."
    )


def _first_screen(numbers: dict[str, Any], story: dict[str, Any], learned: str) -> list[str]:
    few, fewest, seeds = numbers["labels_few"], numbers["labels_fewest"], len(numbers["seeds"])
    bars = {suffix: _bars(numbers, suffix) for suffix in _SUFFIXES}
    longest = max(bar.value for own in bars.values() for bar in own)  # one scale for all
    return [
        *html.title("bertjax demo", verdict(numbers)),
        '<div class="pair">',
        html.figure(
            html.bars(bars[""], "Accuracy with all labels", longest),
            f"{numbers['labels_all']} labeled passages of each package: accuracy on "
            f"{numbers['test_rows']:,} passages of source files that were held out. Whiskers: "
            f"standard deviation over {seeds} seeds of fine-tuning one pre-trained model.",
        ),
        html.figure(
            html.bars(bars["_few"], f"Accuracy with {few} labels", longest),
            f"{few} labeled passages of each package, the same test.",
        ),
        html.figure(
            html.bars(bars["_fewest"], f"Accuracy with {fewest} labels", longest),
            f"{fewest} labeled passages of each package, the same test.",
        ),
        html.paragraph(why(numbers), "note"),
        "</div>",
        html.heading("Filling in the blank"),
        _fills(story["fills"]),
        html.heading("What it learned from the text alone"),
        learned,
        html.heading("Now with your text"),
        html.paragraph(
            "These commands turn raw text into a BERT and that BERT into a classifier. Each prints "
            "the next one, has a help text, and resumes when it is given again."
        ),
        html.preformatted(story["commands"]),
    ]


def _learned(numbers: dict[str, Any], metrics: dict[str, Metric]) -> str:
    """Describes the last evaluation of pre-training, beside what needs no text to be learned."""
    values = []
    for metric in metrics.values():
        if metric.reference and metric.name in numbers:
            words, reference = metric.reference
            form, unit = (".2f", " nats") if metric.better == "min" else (".1%", "")
            value = f"{numbers[metric.name]:{form}}{unit}"
            values.append(f"{metric.words} {value} ({words} {reference:{form}})")
    return (
        f"At the end, on held-out text: {', '.join(values)}. The unigram entropy is the loss of a "
        "model that knows only how often each token occurs. The majority is the share of the more "
        "frequent answer."
    )


def _bars(numbers: dict[str, Any], suffix: str) -> list[Bar]:
    arms = ("pretrained", "scratch", "tfidf")
    scores = [numbers[f"accuracy_{arm}{suffix}"] for arm in arms]
    deviations = [numbers[f"accuracy_{arm}_deviation{suffix}"] for arm in arms]
    labels, colors = ("pre-trained", "from scratch", "TF-IDF"), ("accent", "second", "third")
    return list(map(Bar, labels, scores, deviations, colors))


def _fills(fills: Sequence[dict[str, Any]]) -> str:
    """A table with a row a sentence and a column a moment of training."""
    rows = []
    for number, sentence in enumerate(fills[0]["sentences"] if fills else ()):
        blank = html.text(sentence["text"]).replace("[MASK]", '<span class="blank"></span>')
        cells = []
        for moment in fills:
            best, *others = (html.text(token) for token, _ in moment["sentences"][number]["tokens"])
            cells.append(f'<span class="words">{", ".join([f"<b>{best}</b>", *others])}</span>')
        rows.append([blank, *cells])
    return html.table(["", *(moment["when"] for moment in fills)], rows)


def _details(numbers: dict[str, Any], story: dict[str, Any]) -> list[str]:
    predictions = []
    for item in story["predictions"]:
        mark = "right" if item["said"] == item["label"] else "wrong"
        answer = f'<span class="{mark}">{html.text(item["said"])}</span> {item["score"]:.0%}'
        text = f"<small>{html.text(item['text'])}</small>"
        predictions.append([text, html.text(item["label"]), answer])
    stages = numbers["seconds_by_stage"].items()
    seconds = [[html.text(stage), f"{value:,.0f}"] for stage, value in stages]
    seconds.append(["<b>in all</b>", f"<b>{numbers['seconds']:,.0f}</b>"])
    versions = ", ".join(f"{name} {version}" for name, version in numbers["versions"].items())
    return [
        html.heading("Passages it has never seen"),
        html.table(["passage", "package", "the pre-trained BERT says"], predictions),
        html.heading("How it was measured"),
        *(html.paragraph(line) for line in story["method"]),
        html.heading("Where the time went"),
        html.table(["stage", "seconds"], seconds, numbers=(1,)),
        html.paragraph(
            f"On {numbers['device']}; {versions}. Corpus {numbers['corpus_sha256'][:16]}, seeds "
            f"{numbers['seeds']}. {NUMBERS} beside this page has all numbers.",
            "note",
        ),
    ]
