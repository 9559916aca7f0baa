"""The configuration of `bertjax plan`."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from tyro.conf import Suppress

from bertjax.data.segments import DEFAULT_SEGMENTS, SegmentsName
from bertjax.errors import UserError
from bertjax.finetune.config import FinetuneConfig
from bertjax.glue.config import GlueConfig
from bertjax.plan.chips import Topology, parse_topology
from bertjax.pretrain.config import PretrainConfig
from bertjax.train.hosts_config import HostsConfig
from bertjax.train.telemetry.trackers import TelemetryConfig


@dataclasses.dataclass(frozen=True)
class _Options:
    """These options say what to plan for, and how to print it."""

    topology: str = ""
    """Chips to plan for, such as v5e:2x4 or v5p:2x2x2. Known are v4, v5e, v5p, v6e and tpu7x. With
    `mesh.slices` 2 there are two slices of them."""
    hourly_rate: float | None = None
    """Price of one chip for one hour, in any currency. It gives the price of the run."""
    compare: str | None = None
    """A second recipe, planned with the same flags and printed beside the first."""
    search: bool = False
    """Compile other settings too: the largest microbatch that fits, then other `execution.remat`
    and `mesh`. Each takes minutes."""
    html: str | None = None
    """File to write a page with the plan to."""
    json: bool = False
    """Print the plan as one line of JSON."""

    def check_options(self) -> None:
        """Raises `UserError` if options contradict each other."""
        if self.hourly_rate is not None and not self.hourly_rate > 0:
            raise UserError(f"`hourly_rate` is {self.hourly_rate}: give a number above 0.")
        if self.compare and self.search:
            raise UserError("`compare` and `search`: give one of them at a time.")


@dataclasses.dataclass(frozen=True)
class PlanConfig(_Options, PretrainConfig):
    """Compile the training step of a recipe for TPUs that this machine does not have, and print
    whether it fits, how long it takes by the compiler's estimate, and what it costs. The flags are
    those of the recipe's verb; without a recipe those of `pretrain`. It needs libtpu (the extra
    `tpu`), which exists for Linux on x86-64, and some minutes."""

    data: str | Sequence[str] = ()
    """Directory of the shards, which gives the length of rows and the size of the vocabulary. Not
    read if `max_seq_length` and `vocab_size` are given."""
    # A recipe has these, and a plan does not use them.
    workdir: Suppress[str] = ""
    telemetry: Suppress[TelemetryConfig] = TelemetryConfig()
    hosts: Suppress[HostsConfig] = dataclasses.field(default_factory=HostsConfig)
    eval_examples: Suppress[int] = 2048
    fresh: Suppress[bool] = False
    max_seq_length: int | None = None
    """Tokens in a row. Default: as in the shards; with `length_buckets`, the longest."""
    vocab_size: int | None = None
    """Number of tokens in the vocabulary. Default: as in the shards."""
    segments: SegmentsName = DEFAULT_SEGMENTS
    """Kind of segments in the rows, if the shards are not read."""
    packed_examples: int | None = None
    """Maximum number of examples in a row with `pack`, if the shards are not read."""
    phase: int = 1
    """The phase to plan, of a recipe with two."""

    @property
    def directories(self) -> tuple[str, ...]:
        """The data directories; (None) stands for no data, which a plan allows."""
        return super().directories or ("",)

    @property
    def planned(self) -> PretrainConfig:
        """The configuration of the phase to plan; raises `UserError` if there is no such one."""
        phases = self.phases
        if not 1 <= self.phase <= len(phases):
            have, give = ("one phase", "1") if len(phases) == 1 else ("two phases", "1 or 2")
            raise UserError(f"`phase` is {self.phase}, and the recipe has {have}: give {give}.")
        return phases[self.phase - 1]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_options()
        least_values = {"max_seq_length": 8, "vocab_size": 8, "packed_examples": 1}
        for name, least in least_values.items():
            if (value := getattr(self, name)) is not None and value < least:
                raise UserError(f"`{name}` is {value}: give at least {least}.")


@dataclasses.dataclass(frozen=True)
class FinetunePlan(_Options, FinetuneConfig):
    """Compile the training step of a `bertjax finetune` for TPUs that this machine does not have,
    and print whether it fits, how long it takes by the compiler's estimate, and what it costs. The
    files and the model are read, except for its weights."""

    phase: ClassVar[int] = 1

    @property
    def planned(self) -> FinetuneConfig:
        """The configuration to plan."""
        return self

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_options()


@dataclasses.dataclass(frozen=True)
class GluePlan(_Options, GlueConfig):
    """Compile the training step of a `bertjax glue` for TPUs that this machine does not have, and
    print whether it fits, how long it takes by the compiler's estimate, and what it costs: the step
    of a task with the longest rows, and the hours of all tasks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_options()
        if self.search:
            raise UserError("`search` tries microbatches, which GLUE's runs lack: leave it out.")


Planned = PlanConfig | FinetunePlan | GluePlan


def topology_of(config: Planned) -> Topology:
    """Returns the topology to plan for; raises `UserError` if there is no such one."""
    return parse_topology(config.topology, config.mesh.slices or 1)
