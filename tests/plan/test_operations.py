"""Tests how the compiler's cycles are sorted and added."""

import pytest

from bertjax.plan import operations


def test_cycles_count_as_often_as_operations_run(program, times):
    found = operations.cycles_of(program, times)
    entry = 40 + 30 + 500 + 60
    assert found.total == entry + 6 * (1000 + 100 + 20) + 12 * (5 + 10)
    assert sum(share.cycles for share in found.shares) == found.total
    assert sum(each.cycles for each in found.named) == found.total
    assert found.without_estimate == 1  # the sort; AllocateBuffer takes no time


def test_a_fusion_is_sorted_by_what_it_computes(program, times):
    shares = {(s.part, s.kind): s for s in operations.cycles_of(program, times).shares}
    products = shares["feed-forward", "matrix products"]  # with dropout fused into them
    assert (products.cycles, products.operations) == (6 * 1000 + 500, 7)
    assert shares["attention", "dropout"].cycles == 6 * 100
    assert shares["feed-forward", "normalization"].cycles == 12 * 10
    assert shares["optimizer", "optimizer"].cycles == 60
    assert shares["unnamed", "copies and layouts"].cycles == 6 * 20 + 12 * 5


def test_memory_bound_operations_need_half_of_their_time_for_traffic(program, times):
    # The moment's update reads two arrays of 16 KiB and writes one, in 60 cycles.
    def bound(bytes_per_cycle):
        return operations.cycles_of(program, {"ENTRY": 1}, bytes_per_cycle).memory_bound

    assert bound(3 * 16384 / 30.1) - bound(3 * 16384 / 29.9) == 60


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("jit(step)/jvp(B)/B/encoder/Layer/attention/query/dot_general", "attention"),
        ("jit(step)/jvp(B)/B/encoder/Layer/attention_layer_norm/reduce_sum", "attention"),
        ("jit(step)/transpose(jvp(B))/B/encoder/Layer/output_layer_norm/mul", "feed-forward"),
        ("jit(step)/while/body/jvp(B)/mlm/embeddings.attend/dot_general", "head and loss"),
        ("jit(step)/jvp(B)/B/B.embed/embeddings/word_embeddings/take", "embeddings"),
        ("jit(step)/jvp()/reduce_sum", "head and loss"),
        ("jit(step)/vmap(jit(_threefry_split))/_mask_row/add", "masking"),
        ("jit(step)/jit(_where)/select_n", "optimizer"),
        ("", "unnamed"),
    ],
)
def test_parts_follow_from_the_path_of_the_traced_operation(name, part):
    assert operations.part_of(name) == part


def test_added_sums_by_part(program, times):
    shares = operations.cycles_of(program, times).shares
    assert operations.added(shares, "part")["feed-forward"] == 6500 + 120
