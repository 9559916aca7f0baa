"""The settings of the training loop."""

import dataclasses

from bertjax.errors import UserError

# Other fields are at least 1.
_MINIMUM = {"eval_every": 0, "keep_last": 3, "keep_best": 0, "patience": 0}


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """Length of a run and intervals between its reports and saves. A resumed run may change all."""

    train_steps: int = 1000
    """Total number of steps. A larger number continues a finished run."""
    log_every: int = 50
    """Steps between two lines of metrics."""
    eval_every: int = 500
    """Steps between two evaluations. The last step is always evaluated; 0 evaluates only it."""
    save_every: int = 500
    """Steps between two checkpoints. A crash loses at most these. The last step is always saved."""
    keep_last: int = 3
    """Number of newest checkpoints to keep, at least 3."""
    keep_best: int = 1
    """Number of best checkpoints to keep in addition, as measured by the evaluation."""
    max_bad_steps: int = 20
    """Stop after this number of consecutive steps whose loss or gradient is not finite. Each of
    them is skipped."""
    patience: int = 0
    """End early after this number of consecutive evaluations without a new best one. 0: never."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < (minimum := _MINIMUM.get(name, 1)):
                raise UserError(f"`loop.{name}` is {value}: give at least {minimum}.")
