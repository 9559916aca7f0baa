import pytest

from bertjax.train.telemetry import mfu
from bertjax.train.telemetry.mfu import Work, peak_flops, work_of


@pytest.mark.parametrize(
    ("kind", "dtype", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.4),
        ("NVIDIA H100 80GB HBM3", "float32", 494.7),
        ("NVIDIA H100 PCIe", "bfloat16", 756),
        ("NVIDIA H200", "bfloat16", 989.4),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312),
        ("NVIDIA A100-PCIE-40GB", "float32", 156),
        ("NVIDIA A100 80GB PCIe", "bfloat16", 312),
        ("NVIDIA L4", "float32", 60),
        ("TPU v5 lite", "bfloat16", 197),
        ("TPU v5", "bfloat16", 459),
        ("TPU v5p", "bfloat16", 459),
        ("TPU v6 lite", "float32", 918),
    ],
)
def test_peaks_by_the_names_that_jax_gives(kind, dtype, tera):
    assert peak_flops(kind, dtype) == tera * 1e12


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA L40", "TPU v1", "TPU", "H1000"])
def test_what_is_not_in_the_table_has_no_peak(kind):
    assert peak_flops(kind, "bfloat16") is None


def test_no_row_hides_another():
    for kind, (bfloat16, _) in mfu._PEAKS.items():
        assert peak_flops(f"NVIDIA {kind}", "bfloat16") == bfloat16 * 1e12


def test_mfu_is_model_flops_over_the_peak_of_all_devices():
    work = work_of(4e14, "TPU v4", 8, "bfloat16")
    assert work.record(2.0) == {"model_flops_per_second": 8e14, "mfu": 8e14 / (8 * 275e12)}
    assert work.show(2.0) == ["MFU 36.4%"]
    assert work.devices == "8 TPU v4"


def test_a_cpu_has_flops_and_no_mfu():
    work = work_of(3e9, "cpu", 1, "float32")
    assert work.record(0.5) == {"model_flops_per_second": 1.5e9, "mfu": None}
    assert work.show(0.5) == ["1.5 GFLOP/s"]
    assert Work().record(0.5) == {} and work.record(None) == {}
