"""Tests which arrays are counted in HBM at the peak."""

from bertjax.plan import memory

ROW = 256 * 128 * 2
KERNEL = 128 * 128 * 4


def test_the_peak_is_inside_the_loop(program):
    found = {each.operation.name: each.bytes for each in memory.at_peak(program)}
    assert found == {
        "w": KERNEL,
        "v": KERNEL // 4,
        "x": 64 * 128 * 2,
        "begun.1": ROW,  # its other result is its argument
        "more": ROW,  # read after the loop
        "stack.0": 6 * ROW,  # updated in place
        "product.1": ROW,  # the loop's next value takes the place of the one before
    }


def test_parts_say_what_the_arrays_are(program):
    parts = memory.parts(memory.at_peak(program), {(128, 128)})
    assert list(parts.values()) == sorted(parts.values(), reverse=True)
    assert parts["parameters"] == KERNEL
    assert parts["optimizer moments"] == KERNEL // 4
    assert parts["activations: attention"] == 6 * ROW
    assert parts["activations: feed-forward"] == ROW
    assert sum(parts.values()) == sum(each.bytes for each in memory.at_peak(program))


def test_arrays_of_the_shape_of_a_parameter_are_gradients(program):
    parts = memory.parts(memory.at_peak(program), {(256, 128)})
    assert parts["gradients and new parameters"] == 3 * ROW
