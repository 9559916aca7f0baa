"""Writes a plan as an HTML page that needs no network."""

from collections.abc import Mapping, Sequence
from typing import Any

from bertjax.files import location, writing
from bertjax.plan import text
from bertjax.report import html

Facts = Mapping[str, Any]


def write_page(
    path: str,
    names: Sequence[str],
    plans: Sequence[Facts],
    detailed: Facts,
    hourly_rate: float | None,
) -> None:
    """Writes the page of one plan, with a table of all plans if there are several.

    Args:
        path: the file to write.
        names: the names of the plans.
        plans: the facts of each; some may not fit.
        detailed: the plan to show in full, which fits.
        hourly_rate: the price of a chip for an hour, if it is known.
    """
    seconds, memory = detailed["seconds"], detailed["memory"]
    body = html.title(
        f"bertjax plan, {detailed['topology']}",
        f"{seconds['step'] * 1e3:,.1f} ms a step by the compiler's estimate, "
        f"{memory['peak_gib']:.2f} of {memory['available_gib']:.2f} GiB HBM",
    )
    body.append(html.paragraph(text.heading(detailed)))
    if len(plans) > 1:
        header, *rows = text.columns(names, plans, hourly_rate)
        cells = [list(map(html.text, row)) for row in rows]
        body += [html.heading("Variants"), html.table(header, cells, range(1, len(header)))]
    cycles, total = detailed["cycles"], detailed["cycles"]["total"]
    for field, title in (("by_part", "part of the step"), ("by_kind", "kind of operation")):
        shares = {name: value / total for name, value in cycles[field].items()}
        body.append(html.figure(_bars(shares, title), f"Predicted cycles by {title}"))
    shares = {
        name: size / memory["available_gib"]
        for name, size in memory["parts_gib"].items()
        if size > 0.001 * memory["available_gib"]
    }
    caption = f"Parts of the peak, as shares of {memory['available_gib']:.2f} GiB HBM"
    body.append(html.figure(_bars(shares, caption), caption))
    body += [html.heading("The plan"), html.preformatted(list(text.lines(detailed, hourly_rate)))]
    rows = [
        [html.text(each["name"]), f"{each['operations']:,}", f"{each['cycles'] / total:.1%}"]
        for each in cycles["operations"]
    ]
    table = html.table(("traced operation", "operations", "cycles"), rows, (1, 2))
    body.append(html.folded("The costliest operations", table))
    target = location(path)
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(html.page("bertjax plan", body))


def _bars(shares: Mapping[str, float], title: str) -> str:
    items = [html.Bar(name, share, None, "accent") for name, share in shares.items()]
    return html.bars(items, title, max(shares.values(), default=1.0), left=250)
