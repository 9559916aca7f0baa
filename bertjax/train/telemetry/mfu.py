"""Model FLOPs utilization: a model's FLOP/s as a share of the devices' peak.

MFU = model FLOPs of a step / seconds of a step / peak FLOP/s of all devices (PaLM, arXiv
2204.02311, appendix B). `bertjax.model.flops` counts model FLOPs: the matrix products of one
forward and one backward pass over the tokens that tokens/s counts. A pre-training row counts with
its padding; a fine-tuning row counts without, although padding is computed. Rematerialization, the
optimizer and evaluations don't count.
"""

from typing import NamedTuple

_TERA = 10**12


# Dense TFLOP/s of the JAX devices whose `device_kind` contains the key, in bfloat16 and in float32
# at JAX's default matmul precision, which is bfloat16 on TPUs and TF32 on NVIDIA's GPUs.
# TPUs: cloud.google.com/tpu/docs, one page a version; a device is half a chip of v2, v3 and 7x.
# GPUs: NVIDIA's data sheets, without sparsity, at full power.
_PEAKS = {
    "TPU v2": (23, 23),
    "TPU v3": (61.5, 61.5),
    "TPU v4": (275, 275),
    "TPU v5 lite": (197, 197),
    "TPU v5e": (197, 197),
    "TPU v5p": (459, 459),
    "TPU v5": (459, 459),
    "TPU v6 lite": (918, 918),
    "TPU v6e": (918, 918),
    "TPU7x": (1153.5, 1153.5),
    "H100 PCIe": (756, 378),
    "H100 NVL": (835, 417.5),
    "H100": (989.4, 494.7),
    "H200 NVL": (835, 417.5),
    "H200": (989.4, 494.7),
    "A100": (312, 156),
    "L40S": (362, 183),
    "L4": (121, 60),
}


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Returns the peak FLOP/s of a `jax.Device.device_kind`; None if the table lacks it (CPUs).

    `dtype` is that of the matrix products, "bfloat16" or "float32".
    """
    words = f" {device_kind.replace('-', ' ')} "  # e.g. NVIDIA A100-SXM4-80GB
    for kind, (bfloat16, float32) in _PEAKS.items():  # longer names come before their beginnings
        if f" {kind} " in words:
            return (bfloat16 if dtype == "bfloat16" else float32) * _TERA
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
        if steps_per_second is None or not self.flops:
            return []
        rate = self.flops * steps_per_second
        return [f"MFU {rate / self.peak:.1%}" if self.peak else f"{rate / 1e9:,.1f} GFLOP/s"]


def work_of(flops: float, device_kind: str, devices: int, dtype: str) -> Work:
    """Returns the work of a step on `devices` devices of a kind."""
    peak = peak_flops(device_kind, dtype)
    return Work(flops, peak and peak * devices, f"{devices} {device_kind}")
