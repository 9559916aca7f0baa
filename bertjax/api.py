"""`bertjax.fit`: one function for every kind of run, for notebooks and other code."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    from bertjax.finetune.config import FinetuneConfig
    from bertjax.finetune.results import FinetuneResult
    from bertjax.pretrain.config import PretrainConfig
    from bertjax.pretrain.run import PretrainResult

Log = Callable[[str], None]


@overload
def fit(config: "PretrainConfig", *, log: Log = ...) -> "PretrainResult": ...
@overload
def fit(config: "FinetuneConfig", *, log: Log = ...) -> "FinetuneResult": ...
def fit(config: Any, *, log: Log = print) -> Any:
    """Starts or resumes a run.

    Args:
        config: a `bertjax.PretrainConfig` or a `bertjax.FinetuneConfig`.
        log: takes one line at a time.

    Returns:
        PretrainResult or FinetuneResult.

    Raises:
        UserError: a mistake in the configuration, the data or the run directory.
        TypeError: another type of configuration.
    """
    from bertjax.finetune.config import FinetuneConfig
    from bertjax.finetune.run import finetune
    from bertjax.pretrain.config import PretrainConfig
    from bertjax.pretrain.run import pretrain

    if isinstance(config, PretrainConfig):
        return pretrain(config, log)
    if isinstance(config, FinetuneConfig):
        return finetune(config, log)
    raise TypeError(f"fit takes a PretrainConfig or a FinetuneConfig, not {type(config).__name__}.")
