"""The whole way in minutes: text of this machine -> vocabulary -> shards -> BERT -> task -> report.

Every phase leaves its result in `demo.json` of the demo's directory and is skipped when it is
there, so the same command again goes on where it was.
"""

import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable
from typing import Any

from etils import epath

from bertjax.config import BertConfig
from bertjax.demo import pacing
from bertjax.demo.pacing import Recipe
from bertjax.errors import Stopped, UserError
from bertjax.files import output_directory, write_atomically, writing
from bertjax.objectives.masking import MaskingConfig
from bertjax.pretrain.config import InitializationConfig, ModelConfig, PretrainConfig
from bertjax.train.loop import LoopConfig
from bertjax.train.optimizer import OptimizerConfig
from bertjax.train.telemetry.logger import duration

Log = Callable[[str], None]

RECORD = "demo.json"
PHASES: tuple[str, ...] = (
    "corpus",
    "tokenizer",
    "prepare",
    "plan",
    "pretrain",
    "finetune-pretrained-train",
    "finetune-scratch-train",
    "finetune-pretrained-few",
    "finetune-scratch-few",
    "tfidf",
    "predict",
    "report",
)
LEAST_MINUTES = 3.0
INITIALIZATION = InitializationConfig(
    mlm_bias="unigram", positions="sinusoidal", attention="averaging"
)
"""Of pre-training, and of the network from scratch that it is compared with."""


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """From the text on this machine to a fine-tuned BERT and its report; needs no data."""

    workdir: str = "runs/demo"
    """Everything is written below it; the same command again goes on where it was."""
    minutes: float = 5.6
    """Time to spend in all, on this machine: pre-training gets what the other phases leave. From 20
    on the model is larger."""
    seed: int = 0
    """Of the choice of passages, the weights, the order of the data and the masks; fine-tuning
    takes this one and the two that follow."""

    def __post_init__(self) -> None:
        if not LEAST_MINUTES <= self.minutes <= 7 * 24 * 60:
            raise UserError(
                f"minutes is {self.minutes}: give {LEAST_MINUTES:g} or more; with less nothing is "
                "learned that could be shown."
            )
        if not 0 <= self.seed < 2**31 - Recipe.seeds:
            raise UserError(f"seed is {self.seed}: give a whole number from 0 to 2147483644.")


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """What the demo came to."""

    numbers: dict[str, Any]
    """What numbers.json holds; empty if it was stopped."""
    verdict: str
    """The result in one sentence."""
    report: epath.Path | None
    """The page; None if it was stopped."""
    stopped: bool
    """Ended early by a signal; the same command goes on."""


def demo(config: DemoConfig, log: Log) -> DemoResult:
    """Runs, or resumes, all of the demo.

    Args:
        config: where, and how long.
        log: is given one line at a time.

    Raises:
        UserError: scikit-learn is missing, the documentation installed here is too little, or the
            directory holds another demo.
    """
    from bertjax.demo.baseline import check_installed

    check_installed()
    try:
        return _Demo(config, log).go()
    except Stopped:
        log("Stopped; the same command goes on from there.")
        return DemoResult({}, "", None, stopped=True)


class _Demo:
    """One call of `demo`; each phase is a method that returns JSON for the record."""

    def __init__(self, config: DemoConfig, log: Log) -> None:
        self.config, self.log = config, log
        self.recipe = Recipe.of(config.minutes)
        self.workdir = output_directory(config.workdir)
        self.seeds = tuple(range(config.seed, config.seed + self.recipe.seeds))
        self.record = self._open_record()

    def _open_record(self) -> dict[str, Any]:
        settings = {
            "minutes": self.config.minutes,
            "seed": self.config.seed,
            "seeds": list(self.seeds),
            "recipe": json.loads(json.dumps(dataclasses.asdict(self.recipe))),
        }
        path = self.workdir / RECORD
        if not path.exists():
            return {"settings": settings, "phases": {}, "seconds": {}}
        record = json.loads(path.read_text())
        changed = [name for name in settings if record["settings"].get(name) != settings[name]]
        if changed:
            raise UserError(
                f"{path}: holds a demo with another {' and '.join(changed)}: give another "
                "--workdir, or remove this one to start again."
            )
        return record

    def go(self) -> DemoResult:
        phase, workdir = self._phase, self.workdir
        self.log(
            f"bertjax demo: about {self.config.minutes:g} minutes. All of it goes to {workdir}."
        )
        self.corpus = phase("corpus", "Reading the documentation installed here", 30, self._corpus)
        phase("tokenizer", "Training a vocabulary", 15, self._tokenizer)
        self.data = phase("prepare", "Cutting the text into examples", 10, self._prepare)
        self.plan = phase("plan", "Measuring this machine", 10, self._plan)
        phase("pretrain", "Pre-training", self.plan["pretrain"], self._pretrain)
        for rows, labels in (("train", "all labels"), ("few", f"{self._few} labels each")):
            for arm, start in (("pretrained", "the pre-trained BERT"), ("scratch", "from scratch")):
                phase(
                    f"finetune-{arm}-{rows}",
                    f"Fine-tuning {start}, {labels}, {self.recipe.seeds} seeds",
                    self.plan[rows],
                    functools.partial(self._finetune, arm, rows),
                )
        phase("tfidf", "TF-IDF with logistic regression", 15, self._tfidf)
        phase("predict", "Predicting passages it has never seen", 3, self._predict)
        return self._report()

    # Phases

    def _phase(self, name: str, title: str, seconds: float, work: Callable[[], Any]) -> Any:
        """The result of a phase: of the record, or of `work`, which is then kept there."""
        done = self.record["phases"]
        number = f"[{PHASES.index(name) + 1}/{len(PHASES)}]"
        if name in done:
            self.log(f"{number} {title}: done before.")
            return done[name]
        self.log(f"{number} {title}: about {duration(seconds)}.")
        spent = self.record["seconds"]
        started, before = time.monotonic(), spent.get(name, 0.0)
        try:
            done[name] = json.loads(json.dumps(work()))  # the same whether read back or not
        finally:
            # Also of a phase that was stopped: it counts when the demo goes on.
            spent[name] = round(before + time.monotonic() - started, 2)
            self._save_record()
        return done[name]

    def _save_record(self) -> None:
        text = json.dumps(self.record, indent=1, ensure_ascii=False) + "\n"
        write_atomically(self.workdir / RECORD, text.encode())

    def _corpus(self) -> dict[str, Any]:
        from bertjax.demo.documentation import installed_documentation
        from bertjax.demo.passages import TaskSizes, write_corpus

        corpus = write_corpus(
            installed_documentation(), self.workdir / "corpus", TaskSizes(), self.config.seed
        )
        self.log(
            f"{corpus.words:,} words of {corpus.files:,} source files, and "
            f"{len(corpus.labels)} packages to tell apart: {', '.join(corpus.labels)}; "
            f"{corpus.held_out_files} more source files are kept for dev and test alone."
        )
        facts = dataclasses.asdict(corpus)
        return {name: facts[name] for name in facts if name not in ("text", "tasks")}

    def _tokenizer(self) -> dict[str, Any]:
        from bertjax.text.tokenizer_training import TokenizerConfig, train_tokenizer

        config = TokenizerConfig(
            input=(str(self.workdir / "corpus" / "text.txt"),),
            output=str(self.workdir / "tokenizer"),
            vocab_size=self.recipe.vocab_size,
        )
        return {"vocab_size": train_tokenizer(config, self.log).vocab_size}

    def _prepare(self) -> dict[str, Any]:
        from bertjax.data.audit.report import is_clean
        from bertjax.data.prepare.run import PrepareConfig, prepare

        config = PrepareConfig(
            input=(str(self.workdir / "corpus" / "text.txt"),),
            tokenizer=str(self.workdir / "tokenizer"),
            output=str(self.workdir / "data"),
            max_seq_length=self.recipe.max_seq_length,
            held_out=self.recipe.held_out,
        )
        manifest = prepare(config, self.log)
        if not is_clean(self.workdir / "data"):
            self.log(
                "Documentation repeats itself, so such warnings are no surprise here, and the "
                "held-out losses below flatter a little; with your own text, act on them."
            )
        return {
            "examples": manifest.examples("train"),
            "unigram_entropy": manifest.unigram_entropy,
            "majority": manifest.majority,
        }

    def _plan(self) -> dict[str, Any]:
        recipe, asked = self.recipe, self.config.minutes * 60
        speed = pacing.measure(self._pretrain_config(steps=recipe.least_steps), recipe)
        plan = pacing.plan(
            recipe,
            speed,
            rows=self.corpus["rows"],
            examples=self.data["examples"],
            seconds=asked - sum(self.record["seconds"].values()),
        )
        self.log(
            f"A pre-training step takes {speed.pretrain_step:.2f} s here: {plan.steps:,} steps of "
            f"{recipe.batch_size} x {recipe.max_seq_length} tokens."
        )
        if plan.late > 0:
            self.log(
                f"With the {recipe.least_steps:,} steps that it takes to learn something, the demo "
                f"needs {duration(plan.late)} more on this machine than the minutes asked for."
            )
        return plan._asdict()

    def _model(self) -> BertConfig:
        recipe = self.recipe
        return BertConfig.named(
            recipe.size,
            vocab_size=recipe.vocab_size,
            max_position_embeddings=recipe.max_seq_length,
            initializer_range=recipe.initializer_range,
            # Minutes of training are too short to overfit: dropout would only slow it down.
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )

    def _pretrain_config(self, steps: int) -> PretrainConfig:
        recipe = self.recipe
        shape = self.workdir / "model.json"
        with writing(shape):
            shape.write_text(json.dumps(self._model().to_dict(), indent=2) + "\n")
        return PretrainConfig(
            data=str(self.workdir / "data"),
            workdir=str(self.workdir / "pretrain"),
            model=ModelConfig(size=str(shape)),
            initialization=INITIALIZATION,
            masking=MaskingConfig(rate=recipe.masking_rate),
            optimizer=OptimizerConfig(
                name="adamw",
                learning_rate=recipe.learning_rate,
                schedule="linear",
                warmup_steps=int(recipe.warmup_share * steps),
                beta2=recipe.beta2,
            ),
            loop=LoopConfig(
                train_steps=steps,
                log_every=max(10, steps // 40),
                eval_every=steps // 10,
                save_every=max(100, steps // 3),
                keep_best=0,
            ),
            batch_size=recipe.batch_size,
            eval_examples=recipe.eval_examples,
            seed=self.config.seed,
        )

    def _pretrain(self) -> dict[str, Any]:
        import jax

        from bertjax.demo.summary import keep_blanks
        from bertjax.model.bert import init_params
        from bertjax.pretrain.run import pretrain
        from bertjax.text.tokenizer import load_tokenizer

        steps = self.plan["steps"]
        tokenizer = load_tokenizer(self.workdir / "tokenizer")
        config = self._pretrain_config(steps)
        model = self._model()
        fill = functools.partial(keep_blanks, self.workdir / "fills", tokenizer, model)

        def on_evaluate(step: int, params: Any) -> None:
            if step in (0, steps // 10, steps):
                fill(step, params)

        result = pretrain(config, self.log, on_evaluate=on_evaluate)
        if result.stopped:
            raise Stopped("stopped in training")
        shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
        parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
        return {"metrics": result.metrics, "parameters": parameters, "steps": steps}

    @property
    def _few(self) -> int:
        return self.corpus["rows"]["few"] // len(self.corpus["labels"])

    def _finetune(self, arm: str, rows: str) -> dict[str, Any]:
        from bertjax.finetune.run import FinetuneConfig, finetune

        recipe, corpus = self.recipe, self.workdir / "corpus"
        config = FinetuneConfig(
            model=str(self.workdir / "pretrain"),
            train=str(corpus / f"{rows}.jsonl"),
            dev=str(corpus / "dev.jsonl"),
            test=str(corpus / "test.jsonl"),
            workdir=str(self.workdir / "finetune" / f"{arm}-{rows}"),
            from_scratch=arm == "scratch",
            initialization=INITIALIZATION,
            seeds=self.seeds,
            epochs=recipe.epochs if rows == "train" else recipe.epochs_few,
            batch_size=recipe.finetune_batch_size,
            max_seq_length=recipe.max_seq_length,
            learning_rates=recipe.finetune_rates,
            eval_every=10**9,  # the last step is always evaluated: the only evaluation that is used
            save_every=10**9,
            log_every=10**9,
            optimizer=OptimizerConfig(name="adamw", schedule="linear"),
        )
        result = finetune(config, self._quieter)
        if result.stopped:
            raise Stopped("stopped in training")
        return {
            "dev": [seed.metrics["accuracy"] for seed in result.seeds],
            "test": [(seed.test_metrics or {})["accuracy"] for seed in result.seeds],
            "learning_rate": result.learning_rate,
            "tried": {f"{each.learning_rate:g}": score for each, score in result.tried.items()},
        }

    def _quieter(self, line: str) -> None:
        if not line.startswith(("Next:", "step ")):
            self.log(f"      {line}")

    def _tfidf(self) -> dict[str, Any]:
        from bertjax.demo.baseline import tfidf_accuracy

        corpus = self.workdir / "corpus"
        return {
            rows: tfidf_accuracy(*(corpus / f"{part}.jsonl" for part in (rows, "dev", "test")))
            for rows in ("train", "few")
        }

    def _predict(self) -> list[dict[str, Any]]:
        from bertjax.inference.predict import predict
        from bertjax.interop.huggingface import from_pretrained

        lines = (self.workdir / "corpus" / "test.jsonl").read_text().splitlines()
        by_label: dict[str, dict[str, str]] = {}
        for row in map(json.loads, lines):
            by_label.setdefault(row["label"], row)
        rows = list(by_label.values())[:5]
        model = from_pretrained(self.workdir / "finetune" / "pretrained-train")
        results = []
        for row, answer in zip(rows, predict(model, [row["text"] for row in rows]), strict=True):
            said, score = answer["label"], answer["score"]
            self.log(f"      {_shorten(row['text'])}")
            mark = "right" if said == row["label"] else f"wrong, it is {row['label']}"
            self.log(f"        {said} ({score:.0%}): {mark}")
            results.append({**row, "said": said, "score": score})
        return results

    def _report(self) -> DemoResult:
        from bertjax.demo import summary
        from bertjax.report.run import verdict, why, write_demo_report

        settings, phases = self.record["settings"], self.record["phases"]
        self.log(f"[{len(PHASES)}/{len(PHASES)}] Writing the report.")
        numbers = summary.numbers(settings, phases, self.record["seconds"])
        story = summary.story(self.workdir, settings, phases)
        target = write_demo_report(self.workdir, numbers, story, self.log)
        said = verdict(numbers)
        for line in ("", said, "", why(numbers), "", f"Report: {target}", "", "Next:"):
            self.log(line)
        for line in story["commands"]:
            self.log(f"  {line}" if line else "")
        return DemoResult(numbers, said, target, stopped=False)


def _shorten(text: str, most: int = 100) -> str:
    return text if len(text) <= most else text[: most - 3].rsplit(" ", 1)[0] + " ..."
