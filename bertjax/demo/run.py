"""All of bertjax in minutes: installed text -> vocabulary -> shards -> BERT -> task -> report.

Each stage leaves its result in `demo.json` in the demo's directory and is skipped if it is there,
so the same command resumes.
"""

import dataclasses
import functools
import json
import textwrap
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from etils import epath

from bertjax import signals
from bertjax.config import read_json_object
from bertjax.data.audit.report import is_clean
from bertjax.data.prepare.run import PrepareConfig, prepare
from bertjax.demo import documentation, pacing, passages, summary
from bertjax.demo.baseline import check_installed, tfidf_accuracy
from bertjax.demo.hyperparameters import Hyperparameters
from bertjax.errors import Stopped, UserError
from bertjax.files import damaged, output_directory, write_atomically
from bertjax.finetune.config import FinetuneConfig
from bertjax.finetune.run import FinetuneResult, finetune
from bertjax.inference.predict import predict
from bertjax.interop.huggingface import from_pretrained
from bertjax.locks import locked
from bertjax.model.bert import init_params
from bertjax.pretrain.run import pretrain
from bertjax.report.demo import verdict, why, write_demo_report
from bertjax.text.tokenizer import load_tokenizer
from bertjax.text.tokenizer_training import TokenizerConfig, train_tokenizer
from bertjax.train.loop import Hooks
from bertjax.train.telemetry.fields import duration

RECORD = "demo.json"
STAGES: tuple[str, ...] = (
    *("corpus", "tokenizer", "prepare", "budget", "pretrain", "embedding"),
    *("finetune-pretrained-train", "finetune-scratch-train"),
    *("finetune-pretrained-few", "finetune-scratch-few"),
    *("finetune-pretrained-fewest", "finetune-scratch-fewest", "tfidf", "predict", "report"),
)
MIN_MINUTES = 3.0
_SECTIONS = ("settings", "stages", "seconds")  # of the record


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """Go from the text on this machine to a fine-tuned BERT and its report; needs no data."""

    workdir: str = "runs/demo"
    """Directory of everything that is written; the same command resumes."""
    minutes: float = 5.6
    """Time to spend on this machine; pre-training gets what the other stages leave. From 20 minutes
    on the model is larger."""
    seed: int = 0
    """Seed of the choice of passages, the weights, the order of the data and the masks;
    fine-tuning uses this one and the two that follow."""

    def __post_init__(self) -> None:
        if not MIN_MINUTES <= self.minutes <= 7 * 24 * 60:
            raise UserError(
                f"`minutes` is {self.minutes}: give {MIN_MINUTES:g} or more; less time is too "
                "short to learn anything."
            )
        if not 0 <= self.seed < 2**31 - Hyperparameters.seeds:
            raise UserError(f"`seed` is {self.seed}: give a whole number from 0 to 2147483644.")


class DemoResult(NamedTuple):
    """Result of a demo; without content if a signal stopped it, after which it can resume."""

    numbers: dict[str, Any]  # the content of numbers.json
    verdict: str  # the result in one sentence
    report: epath.Path | None  # the page
    stopped: bool


def demo(config: DemoConfig, log: Callable[[str], None]) -> DemoResult:
    """Runs, or resumes, the demo; `log` is given one line at a time.

    Raises `UserError` if scikit-learn is missing, the documentation installed here is too little,
    or the directory holds another demo.
    """
    check_installed()
    try:
        with signals.listening(), locked(config.workdir, "workdir", log):
            return _Demo(config, log).run()
    except Stopped:
        log("Stopped; the same command resumes.")
        return DemoResult({}, "", None, stopped=True)


class _Demo:
    """One call of `demo`; each stage is a method that returns JSON for the record."""

    def __init__(self, config: DemoConfig, log: Callable[[str], None]) -> None:
        self.config, self.log = config, log
        self.hyper = Hyperparameters.of(config.minutes)
        self.workdir = output_directory(config.workdir)
        self.seeds = tuple(range(config.seed, config.seed + self.hyper.seeds))
        settings = {
            "minutes": config.minutes,
            "seed": config.seed,
            "seeds": list(self.seeds),
            "hyperparameters": json.loads(json.dumps(dataclasses.asdict(self.hyper))),
        }
        path = self.workdir / RECORD
        self.record: dict[str, Any] = {"settings": settings, "stages": {}, "seconds": {}}
        if path.exists():
            self.record = read_json_object(path)
            if not all(isinstance(self.record.get(name), dict) for name in _SECTIONS):
                damaged(path, "a section is missing", "remove it to start the demo again")
        before = self.record["settings"]
        if changed := [name for name in settings if before.get(name) != settings[name]]:
            raise UserError(
                f"{path}: holds a demo with another {' and '.join(changed)}: give another "
                "`workdir`, or remove this one to start again."
            )

    def run(self) -> DemoResult:
        stage, hyper = self._stage, self.hyper
        self.log(
            f"bertjax demo: about {self.config.minutes:g} minutes. All files go to {self.workdir}."
        )
        self.corpus = stage("corpus", "Reading the documentation installed here", 30, self._corpus)
        stage("tokenizer", "Training a vocabulary", 15, self._tokenizer)
        self.data = stage("prepare", "Cutting the text into examples", 10, self._prepare)
        self.budget = stage("budget", "Measuring this machine", 10, self._budget)
        stage("pretrain", "Pre-training", self.budget["pretrain"], self._pretrain)
        seconds = self.budget["embedding"]
        stage("embedding", "Training on pairs of passages of one file", seconds, self._embedding)
        for rows in ("train", "few", "fewest"):
            labels = round(self.corpus["rows"][rows] / len(self.corpus["labels"]))
            for arm, start in (("pretrained", "the pre-trained BERT"), ("scratch", "from scratch")):
                stage(
                    f"finetune-{arm}-{rows}",
                    f"Fine-tuning {start}, {labels} labels each, {hyper.seeds} seeds",
                    self.budget["finetune"][rows],
                    functools.partial(self._finetune, arm, rows),
                )
        stage("tfidf", "TF-IDF with logistic regression", 15, self._tfidf)
        stage("predict", "Predicting passages it has never seen", 3, self._predict)
        return self._report()

    def _stage(self, name: str, title: str, seconds: float, work: Callable[[], Any]) -> Any:
        """Returns the result of a stage from the record, else that of `work`, and records it."""
        done, spent = self.record["stages"], self.record["seconds"]
        number = f"[{STAGES.index(name) + 1}/{len(STAGES)}]"
        if name in done:
            self.log(f"{number} {title}: done before.")
            return done[name]
        signals.check()
        self.log(f"{number} {title}: about {duration(seconds)}.")
        started, before = time.monotonic(), spent.get(name, 0.0)
        try:
            done[name] = json.loads(json.dumps(work()))  # the same whether read back or not
        finally:
            # The time of a stopped stage counts as well when the demo resumes.
            spent[name] = round(before + time.monotonic() - started, 2)
            text = json.dumps(self.record, indent=1, ensure_ascii=False) + "\n"
            write_atomically(self.workdir / RECORD, text.encode())
        return done[name]

    def _corpus(self) -> dict[str, Any]:
        installed = documentation.installed_documentation()
        corpus = passages.write_corpus(
            installed, self.workdir / "corpus", passages.TaskSizes(), self.config.seed
        )
        self.log(
            f"{corpus.words:,} words of {corpus.files:,} source files, and "
            f"{len(corpus.labels)} packages to tell apart: {', '.join(corpus.labels)}; "
            f"{corpus.held_out_files} more source files are kept for dev and test alone."
        )
        return corpus._asdict()

    def _tokenizer(self) -> dict[str, Any]:
        text, output = self.workdir / "corpus" / "text.txt", self.workdir / "tokenizer"
        config = TokenizerConfig((str(text),), str(output), vocab_size=self.hyper.vocab_size)
        return {"vocab_size": train_tokenizer(config, self.log).vocab_size}

    def _prepare(self) -> dict[str, Any]:
        config = PrepareConfig(
            input=(str(self.workdir / "corpus" / "text.txt"),),
            tokenizer=str(self.workdir / "tokenizer"),
            output=str(self.workdir / "data"),
            max_seq_length=self.hyper.max_seq_length,
            held_out=self.hyper.held_out,
        )
        manifest = prepare(config, self.log)
        if not is_clean(self.workdir / "data"):
            self.log(
                "Documentation repeats itself, so these warnings are expected here, and the "
                "held-out losses below are slightly too low. Act on them for your own text."
            )
        return {
            "examples": manifest.examples("train"),
            "unigram_entropy": manifest.unigram_entropy,
            "majority": manifest.majority,
        }

    def _budget(self) -> dict[str, Any]:
        hyper = self.hyper
        config = hyper.pretraining(self.workdir, hyper.min_steps, self.config.seed)
        speed = pacing.measure(config, hyper)
        rows, examples = self.corpus["rows"], self.data["examples"]
        seconds = self.config.minutes * 60 - sum(self.record["seconds"].values())
        budget = pacing.budget(hyper, speed, rows=rows, examples=examples, seconds=seconds)
        self.log(
            f"A pre-training step takes {speed.pretrain_step:.2f} s here: {budget.steps:,} steps "
            f"of {hyper.batch_size} x {hyper.max_seq_length} tokens."
        )
        if budget.late > 0:
            self.log(
                f"With the {hyper.min_steps:,} steps that it takes to learn something, the demo "
                f"needs {duration(budget.late)} more on this machine than the minutes asked for."
            )
        return budget._asdict()

    def _pretrain(self) -> dict[str, Any]:
        steps, model = self.budget["steps"], self.hyper.model()
        tokenizer = load_tokenizer(self.workdir / "tokenizer")

        def fill(state: Any) -> None:
            if (step := int(state.step)) in (0, steps // 10, steps):
                params = state.averaged_params()
                summary.keep_blanks(self.workdir / "fills", tokenizer, model, step, params)

        hooks = Hooks(on_init=fill, on_eval=lambda step, metrics, state: fill(state))
        config = self.hyper.pretraining(self.workdir, steps, self.config.seed)
        result = pretrain(config, self.log, hooks=hooks)
        if result.stopped:
            raise Stopped("stopped in training")
        shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
        parameters = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        return {"metrics": result.metrics, "parameters": parameters, "steps": steps}

    def _embedding(self) -> dict[str, Any]:
        config = self.hyper.embedding(self.workdir, self.config.seed)
        return {"metrics": self._trained(config, self.log).seeds[0].metrics}

    def _trained(self, config: FinetuneConfig, log: Callable[[str], None]) -> FinetuneResult:
        result = finetune(config, log)
        if result.stopped:
            raise Stopped("stopped in training")
        return result

    def _finetune(self, arm: str, rows: str) -> dict[str, Any]:
        def log(line: str) -> None:
            if not line.startswith("step "):
                self.log(f"      {line}")

        result = self._trained(self.hyper.finetuning(self.workdir, arm, rows, self.seeds), log)
        return {
            "dev": [seed.metrics["accuracy"] for seed in result.seeds],
            "test": [(seed.test_metrics or {})["accuracy"] for seed in result.seeds],
        }

    def _tfidf(self) -> dict[str, Any]:
        corpus = self.workdir / "corpus"
        return {
            rows: tfidf_accuracy(*(corpus / f"{split}.jsonl" for split in (rows, "dev", "test")))
            for rows in ("train", "few", "fewest")
        }

    def _predict(self) -> list[dict[str, Any]]:
        lines = (self.workdir / "corpus" / "test.jsonl").read_text().splitlines()
        first_of: dict[str, dict[str, str]] = {}
        for row in map(json.loads, lines):
            first_of.setdefault(row["label"], row)
        rows = list(first_of.values())[:5]
        model = from_pretrained(self.workdir / "finetune" / "pretrained-train")
        results = []
        for row, answer in zip(rows, predict(model, [row["text"] for row in rows]), strict=True):
            said, score = answer["label"], answer["score"]
            self.log(f"      {textwrap.shorten(row['text'], 100, placeholder=' ...')}")
            mark = "right" if said == row["label"] else f"wrong, it is {row['label']}"
            self.log(f"        {said} ({score:.0%}): {mark}")
            results.append({**row, "said": said, "score": score})
        return results

    def _report(self) -> DemoResult:
        self.log(f"[{len(STAGES)}/{len(STAGES)}] Writing the report.")
        numbers = summary.numbers(self.record)
        story = summary.story(self.workdir, self.record)
        page = write_demo_report(self.workdir, numbers, story)
        result = DemoResult(numbers, verdict(numbers), page, stopped=False)
        following = (line and f"  {line}" for line in story["commands"])
        lines = (result.verdict, "", why(numbers), "", f"Report: {page}", "", "Next:", *following)
        for line in ("", *lines):
            self.log(line)
        return result
