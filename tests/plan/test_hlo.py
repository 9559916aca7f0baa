"""Tests the parser of compiled programs."""

import pytest

from bertjax.plan import hlo


def test_finds_computations_and_operations(program):
    assert next(iter(program)) == "add"
    assert [each.opcode for each in program["add"]] == ["parameter", "parameter", "add"]
    gradient = next(each for each in program[hlo.ENTRY] if each.name == "gradient")
    assert gradient.operands == ("last", "more")
    assert gradient.called == "fused_product"
    assert gradient.cycles == 500
    assert gradient.op_name.endswith("Layer/output/dot_general")
    assert not gradient.is_root
    assert program[hlo.ENTRY][-1].is_root


def test_loops_run_as_often_as_their_conditions_say(program):
    found = hlo.executions(program)
    assert found.times == {hlo.ENTRY: 1, "outer_body": 6, "inner_body": 6 * 2}
    assert found.unknown == []


def test_a_loop_without_a_known_end_counts_once(program):
    *rest, root = program["outer_condition"]
    ended = {**program, "outer_condition": [*rest, root._replace(operands=("k.0", "k.0"))]}
    found = hlo.executions(ended)
    assert found.times["outer_body"] == 1
    assert found.unknown == ["outer_body"]


@pytest.mark.parametrize(
    ("text", "size", "padded", "in_hbm"),
    [
        ("bf16[64,19,30522]{2,1,0:T(8,128)(2,1)}", 64 * 19 * 30522 * 2, 64 * 24 * 30592 * 2, True),
        ("f32[64,12,128,1]{2,1,0,3:T(8,128)S(1)}", 64 * 12 * 128 * 4, 64 * 16 * 128 * 4, False),
        ("u32[64,98304,2]{2,1,0:T(8,128)}", 64 * 98304 * 8, 64 * 98304 * 128 * 4, True),
        ("f32[30522]{0:T(1024)}", 30522 * 4, 30720 * 4, True),
        ("f32[]{:T(128)S(6)}", 4, 4, False),
        ("pred[5]", 5, 5, True),
    ],
)
def test_sizes_of_arrays_follow_their_layouts(text, size, padded, in_hbm):
    (array,) = hlo.arrays_of(text)
    assert (array.size, array.padded, array.in_hbm) == (size, padded, in_hbm)


def test_elements_of_a_tuple_keep_their_layouts():
    text = "((f32[2]{0:T(128)}), /*index=1*/bf16[3,4]{1,0:T(8,128)(2,1)S(1)}, u32[])"
    assert [each.strip() for each in hlo.elements(text)] == [
        "(f32[2]{0:T(128)})",
        "/*index=1*/bf16[3,4]{1,0:T(8,128)(2,1)S(1)}",
        "u32[]",
    ]
