"""What the operating system says of accelerators, in a made-up root directory."""

import os

import pytest

from bertjax.doctor import machine

TPU = {
    **{f"sys/bus/pci/devices/{number}/vendor": "0x1ae0\n" for number in range(3)},
    **{f"sys/bus/pci/devices/{number}/device": "0x006f\n" for number in range(2)},
    "sys/bus/pci/devices/2/device": "0x0042\n",  # the network card
}
FILES = dict.fromkeys(("dev/vfio/0", "dev/vfio/1", "dev/vfio/vfio"), "")
PLUGINS = ("libtpu", "jax-cuda13-plugin")


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Returns the check of a machine with these files and packages."""

    def call(files, *, plugins=PLUGINS):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        monkeypatch.setattr(machine, "version_of", lambda name: name in plugins or None)
        found = machine.inspect(tmp_path)
        return machine.check_machine(found, machine.holders(found, tmp_path))

    return call


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"dev/vfio/0": "", "dev/nvidiactl": ""}, "no TPU and no NVIDIA GPU"),
        (TPU | FILES, "TPU chips: 2"),
        ({"dev/accel0": ""}, "TPU chips: 1"),
        ({"dev/nvidia0": "", "dev/nvidia1": ""}, "GPU chips: 2"),
    ],
)
def test_accelerators_are_found(check, files, told):
    assert check(files).line == f"ok       accelerators: {told}."


@pytest.mark.parametrize(
    ("files", "plugins", "told", "advice"),
    [
        (TPU, PLUGINS, "TPU chips: 2, without a device file such as", "privileged"),
        (TPU | FILES, (), "TPU chips: 2, without libtpu", "pip install -U 'bertjax[tpu]'"),
        ({"dev/nvidia0": ""}, (), "GPU chips: 1, without jax-cuda", "pip install -U 'jax[cuda13]'"),
    ],
)
def test_what_keeps_jax_from_them_is_told(check, files, plugins, told, advice):
    found = check(files, plugins=plugins)
    assert found.status == "failed" and found.told.startswith(told) and advice in found.advice


def test_the_process_that_holds_the_tpu_is_named(check, tmp_path):
    (tmp_path / "proc/42/fd").mkdir(parents=True)
    for number, target in enumerate(("/dev/null", "/dev/vfio/1", "/dev/vfio/0")):
        (tmp_path / f"proc/42/fd/{number}").symlink_to(target)
    found = check(TPU | FILES | {"proc/42/cmdline": "python\0train.py\0", "proc/7/fd/0": ""})
    assert found.told == "TPU chips: 2, and process 42 (python train.py) holds them"


def test_files_that_cannot_be_opened_are_named(check, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, how: not str(path).endswith("vfio/1"))
    assert check(TPU | FILES).told.endswith(f"no permission to open {tmp_path}/dev/vfio/1")


def test_the_report_shows_no_keys():
    shown = machine.variables({"JAX_PLATFORMS": "cpu", "NVIDIA_API_KEY": "secret", "HF_TOKEN": "x"})
    assert shown == {"JAX_PLATFORMS": "cpu"}
