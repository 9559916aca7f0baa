"""The settings by which the hosts of a run find each other."""

import dataclasses

from bertjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class HostsConfig:
    """How this host finds the others. On Cloud TPU and under Slurm it needs no flags."""

    coordinator: str | None = None
    """Address of host 0 with a free port, such as 10.0.0.2:8476, if neither Cloud TPU nor Slurm
    names the hosts."""
    count: int | None = None
    """Number of hosts. 1 never looks for others."""
    index: int | None = None
    """Number of this host, from 0."""
    timeout: int = 300
    """Seconds to wait for the other hosts."""

    def __post_init__(self) -> None:
        if self.count == 1 and self.coordinator is None and not self.index:
            return
        given = {n: getattr(self, n) is not None for n in ("coordinator", "count", "index")}
        if any(given.values()) and not all(given.values()):
            missing = [f"`hosts.{name}`" for name, is_given in given.items() if not is_given]
            raise UserError(
                "`hosts.coordinator`, `hosts.count` and `hosts.index` belong together: add "
                f"{' and '.join(missing)}."
            )
        if self.timeout < 1:
            raise UserError(f"`hosts.timeout` is {self.timeout}: give at least 1.")
        if self.coordinator is None or self.count is None or self.index is None:
            return
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UserError(
                f"`hosts.coordinator` is {self.coordinator}: give the address of host 0 and a "
                "port, such as 10.0.0.2:8476."
            )
        if not 0 <= self.index < self.count:
            raise UserError(
                f"`hosts.index` is {self.index} and `hosts.count` {self.count}: number the hosts "
                f"from 0 to {max(self.count - 1, 0)}."
            )
