"""The configuration of `bertjax glue`."""

import dataclasses
from collections.abc import Sequence

from tyro.conf import Positional

from bertjax.config import Execution, make_tuples
from bertjax.errors import UserError
from bertjax.glue.benchmark import chosen
from bertjax.train.hosts_config import HostsConfig
from bertjax.train.optimizer import OptimizerConfig
from bertjax.train.sharding import MeshConfig


@dataclasses.dataclass(frozen=True)
class GlueConfig:
    """Fine-tune a model on the tasks of GLUE, and write the leaderboard's submission.

    Each task is a fine-tuning run in a directory of its own. The same command again resumes. Tasks
    whose files are missing are named and skipped. The defaults are those of Hugging Face's
    run_glue.py, with the paper's warm-up.
    """

    directory: Positional[str]
    """GLUE as its official download lays it out (CoLA/train.tsv, ..., diagnostic/diagnostic.tsv),
    or tfds:glue, stored as ArrayRecord."""
    model: str
    """Run directory, export, model in Hugging Face's layout, TF1 checkpoint, or name on the hub."""
    workdir: str = "runs/glue"
    """Directory of this run. The same command again resumes it."""
    tasks: Sequence[str] = ()
    """Some of CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE and WNLI. Default: all."""
    seeds: Sequence[int] = (0,)
    """Seeds of each task. The table has median and standard deviation."""
    epochs: int = 3
    """Passes over the training rows."""
    batch_size: int = 32
    """Rows per step, over all devices."""
    max_seq_length: int = 128
    """Maximum tokens of a row."""
    group_by_length: bool = False
    """Put rows of similar length into a batch, which saves padding."""
    warmup_proportion: float = 0.1
    """Share of the steps that warm up."""
    grid: bool = False
    """Try the paper's grid (A.3) with the first seed of each task: learning rates 5e-5, 3e-5, 2e-5,
    batch sizes 16, 32, and 2, 3, 4 epochs. The default is one setting for all tasks."""
    mnli_start: bool = False
    """Also train RTE, MRPC and STS-B from the best model of MNLI. They are reported apart, and the
    submission does not have them."""
    hold_out: float = 0.0
    """Share of the training rows to evaluate on, in tasks that have no dev file."""
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(learning_rate=2e-5)
    )
    """Optimizer and schedule."""
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    """How devices share the work."""
    hosts: HostsConfig = dataclasses.field(default_factory=HostsConfig)
    """Several hosts that run the same command."""
    execution: Execution = dataclasses.field(default_factory=Execution)
    """How to compute."""

    def __post_init__(self) -> None:
        make_tuples(self)
        names = [task.name for task in chosen(self.tasks)]
        if self.mnli_start and "MNLI" not in names:
            raise UserError("`mnli_start` needs MNLI: add it to `tasks`.")
        if not 0 <= self.hold_out < 1:
            raise UserError(f"`hold_out` is {self.hold_out}: give at least 0 and less than 1.")
