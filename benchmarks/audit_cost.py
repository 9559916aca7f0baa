"""Measures what the audit adds to `bertjax prepare`: with it and without, in turn.

    python benchmarks/audit_cost.py --input TEXT ... --tokenizer VOCAB [--times 5]

One process prepares the text several times into a temporary directory. "Without" replaces the
audit's functions by functions that do nothing. The output has the smallest wall and CPU seconds of
both.
"""

import argparse
import tempfile
import time
from unittest import mock

import numpy as np

from bertjax.data.audit import duplicates, measure
from bertjax.data.audit.report import Report
from bertjax.data.prepare import publish
from bertjax.data.prepare.run import PrepareConfig, prepare

NOTHING = {
    (measure.TextSums, "add"): lambda *_: None,
    (measure, "document_sums"): lambda *_: {},
    (measure, "same_document"): lambda *_: 0,
    (duplicates, "sentence_hashes"): lambda *_: np.zeros(0, np.uint64),
    (publish, "make_report"): lambda *_: Report({}, ()),
}


def seconds(arguments, *, audited):
    """Returns the wall and CPU seconds of one preparation."""
    with tempfile.TemporaryDirectory() as output:
        patches = [] if audited else [mock.patch.object(*k, v) for k, v in NOTHING.items()]
        for patch in patches:
            patch.start()
        config = PrepareConfig(tuple(arguments.input), arguments.tokenizer, output, processes=1)
        clock, cpu = time.perf_counter(), time.process_time()
        prepare(config, lambda line: None)
        found = time.perf_counter() - clock, time.process_time() - cpu
        for patch in patches:
            patch.stop()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--input", nargs="+", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--times", type=int, default=5)
    arguments = parser.parse_args()
    kinds = {"without": False, "with": True}
    found = {kind: [] for kind in kinds}
    for _ in range(arguments.times):
        for kind, audited in kinds.items():
            found[kind].append(seconds(arguments, audited=audited))
    best = {kind: np.min(rows, axis=0) for kind, rows in found.items()}
    for kind, (clock, cpu) in best.items():
        print(f"{kind} the audit: {clock:.2f} s, {cpu:.2f} CPU s")
    more = best["with"] / best["without"] - 1
    print(f"The audit adds {more[0]:.1%} of wall time, {more[1]:.1%} of CPU time.")


if __name__ == "__main__":
    main()
