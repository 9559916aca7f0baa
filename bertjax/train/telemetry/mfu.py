"""Model FLOPs utilization: a model's FLOP/s as a share of the devices' peak.

MFU = model FLOPs of a step / seconds of a step / peak FLOP/s of all devices (PaLM, arXiv
2204.02311, appendix B). `bertjax.model.flops` counts model FLOPs: the matrix products of one
forward and one backward pass over the tokens that tokens/s counts. A pre-training row counts with
its padding; a fine-tuning row counts without, although padding is computed. Rematerialization, the
optimizer and evaluations don't count.
"""

import re
from typing import NamedTuple

_TERA = 10**12


class _Peak(NamedTuple):
    """Dense TFLOP/s of a JAX device whose `device_kind` contains `kind`."""

    kind: str
    bfloat16: float
    float32: float
    """At JAX's default matmul precision: bfloat16 on TPUs, TF32 on NVIDIA's GPUs."""


# TPUs: cloud.google.com/tpu/docs, one page a version; a device is half a chip of v2, v3 and 7x.
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
    """Returns the peak FLOP/s of a device; None if the table lacks it, as for CPUs.

    Args:
        device_kind: the attribute of `jax.Device`.
        dtype: dtype of the matrix products, "bfloat16" or "float32".
    """
    words = re.split(r"[ -]", device_kind)  # e.g. NVIDIA A100-SXM4-80GB
    for peak in _PEAKS:  # longer names come before those that they contain
        own = peak.kind.split()
        starts = range(len(words) - len(own) + 1)
        if any(words[at : at + len(own)] == own for at in starts):
            return (peak.bfloat16 if dtype == "bfloat16" else peak.float32) * _TERA
    return None


class Work(NamedTuple):
    """The FLOPs of a step and of its devices."""

    flops: float = 0.0
    """Mean model FLOPs of a step; 0 if unknown."""
    peak: float | None = None
    """Peak FLOP/s of all devices together; None if unknown."""
    devices: str = ""
    """Their number and kind, e.g. "1 NVIDIA H100 80GB HBM3"."""

    def record(self, steps_per_second: float | None) -> dict[str, float | None]:
        """Returns the metrics model_flops_per_second and mfu, those that are known."""
        if steps_per_second is None or not self.flops:
            return {}
        rate = self.flops * steps_per_second
        return {"model_flops_per_second": rate, "mfu": rate / self.peak if self.peak else None}

    def show(self, steps_per_second: float | None) -> list[str]:
        """Formats the MFU for a line, or the FLOP/s if the peak is unknown."""
        found = self.record(steps_per_second)
        if not found:
            return []
        rate, mfu = found["model_flops_per_second"], found["mfu"]
        assert rate is not None
        return [f"{rate / 1e9:,.1f} GFLOP/s" if mfu is None else f"MFU {mfu:.1%}"]


def work_of(flops: float, device_kind: str, devices: int, dtype: str) -> Work:
    """Returns the work of a step on `devices` devices of a kind."""
    peak = peak_flops(device_kind, dtype)
    return Work(flops, peak and peak * devices, f"{devices} {device_kind}")
