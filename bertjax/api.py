"""`bertjax.fit`: one function for every kind of run, for notebooks and other code."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    from bertjax.finetune.config import FinetuneConfig
    from bertjax.finetune.results import FinetuneResult
    from bertjax.glue.config import GlueConfig
    from bertjax.glue.results import GlueResult
    from bertjax.pretrain.config import PretrainConfig
    from bertjax.pretrain.run import PretrainResult

Log = Callable[[str], None]


@overload
def fit(config: "PretrainConfig", *, log: Log = ...) -> "PretrainResult": ...
@overload
def fit(config: "FinetuneConfig", *, log: Log = ...) -> "FinetuneResult": ...
@overload
def fit(config: "GlueConfig", *, log: Log = ...) -> "GlueResult": ...
def fit(config: Any, *, log: Log = print) -> Any:
    """Starts or resumes a run.

    Args:
        config: a `bertjax.PretrainConfig`, a `bertjax.FinetuneConfig` or a `bertjax.GlueConfig`.
        log: takes one line at a time.

    Returns:
        PretrainResult, FinetuneResult or GlueResult.

    Raises:
        UserError: a mistake in the configuration, the data or the run directory.
        TypeError: another type of configuration.
    """
    from bertjax.finetune.config import FinetuneConfig
    from bertjax.finetune.run import finetune
    from bertjax.glue.config import GlueConfig
    from bertjax.glue.run import glue
    from bertjax.pretrain.config import PretrainConfig
    from bertjax.pretrain.run import pretrain

    if isinstance(config, PretrainConfig):
        return pretrain(config, log)
    if isinstance(config, FinetuneConfig):
        return finetune(config, log)
    if isinstance(config, GlueConfig):
        return glue(config, log)
    kinds = "a PretrainConfig, a FinetuneConfig or a GlueConfig"
    raise TypeError(f"fit takes {kinds}, not {type(config).__name__}.")
