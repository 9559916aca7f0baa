import numpy as np
import pytest

from bertjax.pretrain.frequency import token_groups


def test_groups_are_ranks_and_every_token_is_in_one():
    rng = np.random.default_rng(0)
    counts = rng.permutation(12_000)
    groups = token_groups(counts)
    assert list(groups) == [
        "mlm_accuracy_rank_1_100",
        "mlm_accuracy_rank_101_1000",
        "mlm_accuracy_rank_1001_10000",
        "mlm_accuracy_rank_10001_up",
    ]
    assert [group.sum() for group in groups.values()] == [100, 900, 9000, 2000]
    assert (np.sum(list(groups.values()), axis=0) == 1).all()
    least = [counts[group].min() for group in groups.values()]
    most = [counts[group].max() for group in groups.values()]
    assert least[:-1] > most[1:] and least[0] == 12_000 - 100


@pytest.mark.parametrize(
    ("size", "names"),
    [(60, ["1_60"]), (100, ["1_100"]), (101, ["1_100", "101_up"]), (1000, ["1_100", "101_up"])],
)
def test_small_vocabularies_have_fewer_groups(size, names):
    groups = token_groups(np.ones(size, np.int64))
    assert [name.removeprefix("mlm_accuracy_rank_") for name in groups] == names
    assert all(group.any() for group in groups.values())
    assert groups["mlm_accuracy_rank_" + names[0]][: min(size, 100)].all()  # equals by their ids
