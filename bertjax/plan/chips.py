"""The TPU chips that are known, and the topologies that are made of them."""

import math
import re
from typing import NamedTuple

from bertjax.errors import UserError

GIB = 1 << 30


class Chip(NamedTuple):
    """The peaks of one JAX device of a topology, which is half a chip of tpu7x."""

    name: str
    tflops: float
    """Dense bfloat16 TFLOP/s."""
    flops_per_cycle: int
    """In bfloat16: 2 for each cell of its matrix units."""
    hbm_gib: float
    """The compiler gives this much to a program, less than the data sheet's 16, 32, 95 and 96."""
    hbm_gb_per_second: float
    ici_gb_per_second: float | None
    """A device sends this much over all of its links, in one direction; None if not known."""
    per_chip: int = 1
    """JAX devices of a chip."""

    @property
    def clock(self) -> float:
        """Cycles a second, from the peak and the matrix units."""
        return self.tflops * 1e12 / self.flops_per_cycle


# TFLOP/s, GB/s and ICI: cloud.google.com/tpu/docs, one page a version, as of 2026-11. ICI is given
# there in both directions together, which is halved here, except for v4 (six links of 45 GB/s). A
# device of tpu7x is half of a chip of 2,307 TFLOP/s and 7,380 GB/s; its ICI is left open. HBM: what
# libtpu says in its error. A test compares `flops_per_cycle` with the compiler's estimate of a
# large product.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275, 8 * 2 * 128 * 128, 30.75, 1200, 270),
        Chip("v5e", 197, 4 * 2 * 128 * 128, 15.75, 819, 200),
        Chip("v5p", 459, 8 * 2 * 128 * 128, 95.7, 2765, 600),
        Chip("v6e", 918, 4 * 2 * 256 * 256, 31.2, 1638, 400),
        Chip("tpu7x", 1153.5, 4 * 2 * 256 * 256, 94.7, 3690, None, per_chip=2),
    )
}
_FLAT = ("v5e", "v6e")  # two dimensions; the others have three
_NAME = re.compile(r"(\w+):(\d+(?:x\d+){1,2})")


class Topology(NamedTuple):
    """One or several slices of TPU chips, such as v5e:16x16."""

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def name(self) -> str:
        """The name of a slice, as `topology` gives it."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        """The number of chips in all slices."""
        return self.slices * math.prod(self.shape)

    def options(self) -> dict[str, object]:
        """Returns the arguments that libtpu needs beside the name."""
        options: dict[str, object] = {}
        if self.chip.name == "v4":
            options["chip_config_name"] = "megacore"  # as on a TPU VM: one device a chip
        if self.slices > 1:
            options["num_slices"] = self.slices
        if math.prod(self.shape) == 1:
            options["chips_per_host_bounds"] = (1, 1, 1)
        return options


def parse_topology(name: str, slices: int = 1) -> Topology:
    """Reads a name such as v5e:2x4 or v5p:2x2x2; raises `UserError` with those that are known."""
    if not name:
        raise UserError(f"`topology` is missing: name the chips to plan for. {_known()}")
    found = _NAME.fullmatch(name)
    if found is None or found[1] not in CHIPS:
        raise UserError(f"`topology` {name!r} is unknown. {_known()}")
    chip, shape = CHIPS[found[1]], tuple(map(int, found[2].split("x")))
    flat = chip.name in _FLAT
    sides = shape if flat else shape[:2]
    is_even = all(size and size % 2 == 0 for size in sides)
    chips, most = math.prod(shape), 256 if flat else 9216
    if len(shape) != (2 if flat else 3) or not (chips == 1 or is_even) or not 0 < chips <= most:
        raise UserError(f"`topology` {name}: there is no such slice. {_known(chip.name)}")
    return Topology(chip, shape, slices)


def _known(chip: str | None = None) -> str:
    flat = "1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16"
    deep = "1x1x1, 2x2x1, 2x2x2, 2x2x4, 2x4x4, 4x4x4 and multiples of 4x4x4"
    if chip:
        return f"Slices of {chip} are {flat if chip in _FLAT else deep}."
    others = ", ".join(name for name in CHIPS if name not in _FLAT)
    return (
        f"Known are {' and '.join(_FLAT)} with {flat} (such as v5e:2x4); {others} with {deep} "
        "(such as v5p:2x2x2)."
    )
