"""Tests that equal weights and inputs give the outputs of transformers, and that changes do not.

The numbers of transformers are golden files, made by reference.py; weights and inputs follow from
their names.
"""

import dataclasses

import jax
import numpy as np
import pytest

from bertjax.train.tree import named, nested

BOUND = 1e-5
KINDS = (
    "sequence_classification",
    "regression",
    "token_classification",
    "question_answering",
    "multiple_choice",
)
# Softmax cancels a constant that is added to all logits of a query, so outputs do not depend on key
# biases. test_weights.py proves them by the equal bytes of every tensor.
INVISIBLE = {f"encoder/layer_{layer}/attention/key/bias" for layer in range(2)}


class Side:
    """A case with bertjax's outputs and the golden ones."""

    def __init__(self, case, cases, golden, ours):
        self.config = ours.config(case)
        self.params, self.heads = ours.params(case), ours.heads(case)
        self.inputs = cases.inputs(case)
        self._ours = ours
        self._choices = cases.choices
        arrays = golden.load(golden.FOLDER / f"{case}.npz")
        self.expected = {
            name.removeprefix("forward/"): array
            for name, array in arrays.items()
            if name.startswith("forward/")
        }

    def outputs(self, **changes):
        given = {"config": self.config, "params": self.params, "inputs": self.inputs, **changes}
        found = self._ours.outputs(
            given["params"],
            given.get("heads", self.heads),
            given["inputs"],
            self._choices(given["inputs"]),
            config=given["config"],
            kinds=given.get("kinds", KINDS),
        )
        return jax.tree.map(np.asarray, found)

    def difference(self, **changes):
        """Returns the largest difference of any output from the golden one."""
        found = self.outputs(**changes)
        return max(np.abs(array - self.expected[name]).max() for name, array in found.items())


@pytest.fixture(scope="module")
def tiny(cases, golden, ours):
    return Side("tiny_erf", cases, golden, ours)


@pytest.mark.parametrize("case", ["tiny_erf", "tiny_new", "odd", "long", "heads"])
def test_every_head_gives_what_transformers_gives(case, cases, golden, ours, hold):
    side = Side(case, cases, golden, ours)
    found = side.outputs()
    assert set(found) == set(side.expected)
    for name, array in side.expected.items():
        assert found[name].shape == array.shape and array.std() > 0.05
        difference = np.abs(found[name] - array).max()
        hold(f"forward, {case}, {name}", difference, BOUND, "max abs difference")


@pytest.mark.slow  # 110 million weights; CI and `make parity` run it
def test_base_gives_what_transformers_gives(cases, golden, ours, hold):
    side = Side("base", cases, golden, ours)
    sums = golden.load(golden.FOLDER / "base.npz")
    found = side.outputs()
    assert set(found) == set(side.expected)
    for name, array in side.expected.items():
        entries = np.abs(cases.sample(name, found[name]) - array).max()
        hold(f"forward, base, {name}", entries, BOUND, f"max abs difference of {array.size}")
        whole = np.abs(cases.projections(name, found[name]) - sums[f"projections/{name}"]).max()
        hold(f"forward, base, {name}, all entries", whole, BOUND, "sums of random signs / sqrt(n)")


def test_a_change_of_any_tensor_is_noticed(tiny, hold):
    assert tiny.difference() <= BOUND
    rng = np.random.default_rng(0)
    unnoticed, margins = set(), {}
    leaves = named(tiny.params)
    for path, array in leaves.items():
        noise = 1e-3 * np.abs(array).max() * rng.choice([-1.0, 1.0], size=array.shape)
        changed = nested({**leaves, path: (array + noise).astype(np.float32)})
        margins[path] = tiny.difference(params=changed) / BOUND
        if margins[path] <= 1:
            unnoticed.add(path)
    assert unnoticed == INVISIBLE
    for kind, head in tiny.heads.items():
        for path, array in named(head).items():
            changed = nested({**named(head), path: array + np.float32(1e-3 * np.abs(array).max())})
            margins[f"{kind}: {path}"] = (
                tiny.difference(heads={**tiny.heads, kind: changed}) / BOUND
            )
    seen = {path: margin for path, margin in margins.items() if path not in INVISIBLE}
    least = min(seen, key=seen.__getitem__)
    hold(
        f"every tensor but key biases changed by 0.1%, one at a time ({len(seen)} of them): "
        "bound / difference",
        1 / seen[least],
        1.0,
        f"least noticed: {least}",
    )


# Typical mistakes of conversions.


@pytest.mark.parametrize(
    "change",
    [{"hidden_act": "gelu_new"}, {"layer_norm_eps": 1e-6}, {"hidden_act": "relu"}],
    ids=lambda change: "-".join(map(str, *change.items())),
)
def test_another_configuration_is_noticed(tiny, change):
    changed = dataclasses.replace(tiny.config, **change)
    assert tiny.difference(config=changed, kinds=()) > 5 * BOUND


def test_transposed_square_kernels_are_noticed(tiny):
    leaves, seen = named(tiny.params), 0
    for path, array in leaves.items():
        if path.endswith("kernel") and array.shape[0] == array.shape[1]:
            changed = nested({**leaves, path: array.T})
            assert tiny.difference(params=changed) > 100 * BOUND, path
            seen += 1
    assert seen == 2 * 4 + 2  # query, key, value, output; pooler, mlm/transform


def test_swapped_projections_are_noticed(tiny):
    leaves = named(tiny.params)
    attention = "encoder/layer_1/attention"
    for one, other in (("query", "key"), ("key", "value"), ("value", "output")):
        swapped = {
            f"{attention}/{a}/{leaf}": leaves[f"{attention}/{b}/{leaf}"]
            for a, b in ((one, other), (other, one))
            for leaf in ("kernel", "bias")
        }
        assert tiny.difference(params=nested({**leaves, **swapped})) > 100 * BOUND, (one, other)


def test_swapped_layers_are_noticed(tiny):
    encoder = tiny.params["encoder"]
    swapped = {"layer_0": encoder["layer_1"], "layer_1": encoder["layer_0"]}
    assert tiny.difference(params={**tiny.params, "encoder": swapped}) > 100 * BOUND


def test_swapped_token_types_and_a_lost_mask_are_noticed(tiny):
    inputs = tiny.inputs
    swapped = {**inputs, "token_type_ids": 1 - inputs["token_type_ids"]}
    unmasked = {**inputs, "attention_mask": np.ones_like(inputs["attention_mask"])}
    for changed in (swapped, unmasked):
        assert tiny.difference(inputs=changed) > 100 * BOUND


def test_golden_files_of_bertjax_are_refused(golden, tmp_path):
    arrays = {"x": np.zeros(2, np.float32)}
    good = {"torch": "2", "transformers": "5"}
    golden.save(tmp_path / "good.npz", arrays, "transformers", good)
    assert list(golden.load(tmp_path / "good.npz")) == ["x"]
    for library, versions in (
        ("bertjax", good),
        ("transformers", {**good, "bertjax": "0.1.0"}),
        ("transformers", {"transformers": "5"}),
        (None, {}),
    ):
        golden.save(tmp_path / "bad.npz", arrays, library, versions)
        with pytest.raises(ValueError, match=r"golden file has to be made by|doesn't say its date"):
            golden.load(tmp_path / "bad.npz")
    np.savez(tmp_path / "nobody.npz", **arrays)
    with pytest.raises(ValueError, match="made by None"):
        golden.load(tmp_path / "nobody.npz")
