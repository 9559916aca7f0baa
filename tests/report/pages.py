"""Helpers of the tests of reports: made-up runs, and what a page says."""

import html.parser
import json
import re


def write_run(path, values, settings=None, *, kind="eval", metric="mlm_loss"):
    path.mkdir(parents=True)
    records = [
        {"step": 10 * (at + 1), "kind": kind, metric: value} for at, value in enumerate(values)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    if settings is not None:
        (path / "config.json").write_text(json.dumps(settings))


class Reader(html.parser.HTMLParser):
    """Checks that tags close in order, and keeps text and the attributes that load something."""

    VOID = frozenset(["meta", "rect", "path", "circle", "br"])

    def __init__(self):
        super().__init__()
        self.open, self.said, self.loads, self.tags = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said.append(data)


def read(path):
    reader = Reader()
    source = path.read_text()
    reader.feed(source)
    assert not reader.open
    return source, " ".join(" ".join(reader.said).split()), reader


def rows_of(source):
    """The cells of every row of every table, as text."""
    rows = re.findall(r"<tr>(.*?)</tr>", source)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
    return [[re.sub("<[^>]+>", "", cell).strip() for cell in row] for row in cells if row]
