"""Model FLOPs utilization: the share of the devices' peak that a model's own operations are.

MFU = model FLOPs of a step / seconds of a step / peak FLOP/s of all devices (PaLM, arXiv
2204.02311, appendix B). Model FLOPs are counted by `bertjax.model.flops`: the matrix products of
one forward and one backward pass over the tokens that tokens/s counts. Rows of pre-training count
whole, padding included; rows of fine-tuning count their own tokens alone, though more are computed.
What is computed again to save memory, the optimizer, and evaluations do not count.
"""

import re
from typing import NamedTuple

_TERA = 10**12


class _Peak(NamedTuple):
    """Dense TFLOP/s of one JAX device, whose `device_kind` contains `kind`."""

    kind: str
    bfloat16: float
    float32: float
    """Of matrix products at JAX's default precision: bfloat16 on TPUs, TF32 on NVIDIA's GPUs."""


# TPUs: cloud.google.com/tpu/docs, a page a version; of v2, v3 and 7x a device is half a chip.
# GPUs: NVIDIA's data sheets, without sparsity, at full power.
_PEAKS = (
    _Peak("TPU v2", 23, 23),
    _Peak("TPU v3", 61.5, 61.5),
    _Peak("TPU v4", 275, 275),
    _Peak("TPU v5 lite", 197, 197),
    _Peak("TPU v5e", 197, 197),
    _Peak("TPU v5p", 459, 459),
    _Peak("TPU v5", 459, 459),
    _Peak("TPU v6 lite", 918, 918),
    _Peak("TPU v6e", 918, 918),
    _Peak("TPU7x", 1153.5, 1153.5),
    _Peak("H100 PCIe", 756, 378),
    _Peak("H100 NVL", 835, 417.5),
    _Peak("H100", 989.4, 494.7),
    _Peak("H200 NVL", 835, 417.5),
    _Peak("H200", 989.4, 494.7),
    _Peak("A100", 312, 156),
    _Peak("L40S", 362, 183),
    _Peak("L4", 121, 60),
)


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """The peak FLOP/s of a device; None of one that is not in the table, and of any CPU.

    Args:
        device_kind: as `jax.Device` has it.
        dtype: of the matrix products, "bfloat16" or "float32".
    """
    words = re.split(r"[ -]", device_kind)  # e.g. NVIDIA A100-SXM4-80GB
    for peak in _PEAKS:  # the first that fits: longer names come before what they contain
        own = peak.kind.split()
        starts = range(len(words) - len(own) + 1)
        if any(words[at : at + len(own)] == own for at in starts):
            return (peak.bfloat16 if dtype == "bfloat16" else peak.float32) * _TERA
    return None


class Work(NamedTuple):
    """What a step is, for telling how fast it goes."""

    flops: float = 0.0
    """Model FLOPs of a step, on average; 0 if they are not known."""
    peak: float | None = None
    """FLOP/s of all devices together."""
    devices: str = ""
    """What they are, e.g. "1 NVIDIA H100 80GB HBM3"."""

    def record(self, steps_per_second: float | None) -> dict[str, float | None]:
        """The metrics model_flops_per_second and mfu, as far as they are known."""
        if steps_per_second is None or not self.flops:
            return {}
        rate = self.flops * steps_per_second
        return {"model_flops_per_second": rate, "mfu": rate / self.peak if self.peak else None}

    def show(self, steps_per_second: float | None) -> list[str]:
        """The same for a line: the MFU, or the FLOP/s where there is no peak."""
        found = self.record(steps_per_second)
        if not found:
            return []
        rate, mfu = found["model_flops_per_second"], found["mfu"]
        assert rate is not None
        return [f"{rate / 1e9:,.1f} GFLOP/s" if mfu is None else f"MFU {mfu:.1%}"]


def work_of(flops: float, device_kind: str, devices: int, dtype: str) -> Work:
    """The work of a step on so many devices of a kind."""
    peak = peak_flops(device_kind, dtype)
    return Work(flops, peak and peak * devices, f"{devices} {device_kind}")
