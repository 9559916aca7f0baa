"""Tests the list of what chips exchange."""

import pytest

from bertjax.plan import collectives, hlo

MESH = {"data": 4, "fsdp": 1, "tensor": 1}


def test_finds_each_collective_once_with_its_bytes(program, times):
    found = {
        (each.kind, each.overlaps): each
        for each in collectives.collectives_of(program, times, MESH)
    }
    whole = 256 * 128 * 2
    begun = found["all-gather", True]  # goes on in a second fusion, which does not count
    assert (begun.count, begun.bytes, begun.sent, begun.dtypes) == (
        1,
        whole,
        whole * 3 // 4,
        "bf16",
    )
    scattered = found["reduce-scatter", False]  # a reduction of which each chip keeps a slice
    assert (scattered.bytes, scattered.sent) == (128 * 128 * 4, 128 * 128 * 3)
    assert found["all-gather", False].dtypes == "f32"
    assert found["collective-permute", True].sent == 32 * 128 * 4
    assert {each.axes for each in found.values()} == {"data"}
    assert len(found) == 4


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", "tensor"),
        ("replica_groups={{0,2},{1,3},{4,6},{5,7}}", "fsdp"),
        ("replica_groups=[2,4]<=[2,4]", "fsdp x tensor"),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", "data"),
        ("replica_groups=[1,8]<=[8]", "data x fsdp x tensor"),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", "data"),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_1'}", "tensor"),
        ("replica_groups={}", "data x fsdp x tensor"),
    ],
)
def test_groups_of_chips_are_mesh_axes(groups, axes):
    text = (
        f"ENTRY %m () -> f32[] {{\n  ROOT %r = f32[8] all-reduce(%x), {groups}, channel_id=1\n}}\n"
    )
    mesh = {"data": 2, "fsdp": 2, "tensor": 2}
    (found,) = collectives.collectives_of(hlo.parse(text), {hlo.ENTRY: 3}, mesh)
    assert (found.axes, found.count, found.bytes) == (axes, 3, 3 * 32)


def test_seconds_of_those_that_overlap_and_of_the_others(program, times):
    found = collectives.collectives_of(program, times, MESH)
    beside, waiting = collectives.seconds(found, 1000.0)
    assert beside == (256 * 128 * 2 * 3 // 4 + 32 * 128 * 4) / 1000
    assert waiting == 2 * (128 * 128 * 3) / 1000
    assert collectives.seconds([], 1.0) == (0.0, 0.0)


def test_the_network_between_slices_is_apart():
    attributes = 'frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}'
    text = "ENTRY %m () -> f32[] {\n  %s = (f32[256,8]{1,0}, u32[]{:S(2)}, token[]) send(%x, %y), "
    text += f"channel_id=2, is_host_transfer=true, {attributes}\n}}\n"
    (found,) = collectives.collectives_of(hlo.parse(text), {hlo.ENTRY: 1}, MESH)
    assert (found.kind, found.axes, found.overlaps) == ("all-reduce", collectives.SLICES, True)
    assert found.sent == found.bytes == 256 * 8 * 4
    assert collectives.seconds([found], 1.0) == (0.0, 0.0)


def test_asynchronous_gathers_of_several_arrays_count_what_is_gathered():
    types = "((f32[2], f32[4]), (f32[8], f32[16]), u32[]{:S(2)})"
    text = f"ENTRY %m () -> f32[] {{\n  %g = {types} all-gather-start(%x), "
    text += "replica_groups={{0,1}}\n}\n"
    (found,) = collectives.collectives_of(hlo.parse(text), {hlo.ENTRY: 1}, MESH)
    assert (found.bytes, found.sent, found.overlaps) == (96, 48, True)
