"""The table of objectives: defaults for segments, mismatches, and that nothing else names them."""

import ast
from pathlib import Path
from typing import get_args

import pytest

import bertjax
from bertjax.data.segments import SEGMENTS, SegmentsName
from bertjax.errors import UserError
from bertjax.model.heads import TASK_PARTS
from bertjax.objectives.minilm import RelationDistillation
from bertjax.objectives.options import MiniLMOptions, ObjectiveName, ObjectiveOptions, RtdOptions
from bertjax.objectives.rtd import ReplacedTokenDetection
from bertjax.objectives.table import OBJECTIVES, choose_objective

PACKAGE = Path(bertjax.__file__).parent
# These rooms name the subtrees mlm and nsp of parameters, and kinds of models.
HEADS = ("model", "interop")


def strings(path):
    """The string constants of a module with their parent nodes; no docstrings."""
    tree = ast.parse(path.read_text())
    for parent in ast.walk(tree):
        for node in ast.iter_child_nodes(parent):
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
            if is_text and not isinstance(parent, ast.Expr):
                yield node.value, parent


def modules(*left_out):
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name not in left_out and name.split("/")[0] not in left_out:
            yield path


def reads_a_head(parent):
    """Whether a string is looked for in parameters, or is their key."""
    compared = isinstance(parent, ast.Compare) and isinstance(parent.ops[0], ast.In | ast.NotIn)
    return compared or isinstance(parent, ast.Subscript)


def test_objectives_are_named_in_their_files_and_the_table_alone():
    metrics = {metric.name for each in OBJECTIVES.values() for metric in each.metrics}
    for path in modules("objectives", *HEADS):
        for value, parent in strings(path):
            assert value not in OBJECTIVES or reads_a_head(parent), (path, value)
            assert value not in metrics, (path, value)
    found = {
        path.name
        for path in (PACKAGE / "objectives").glob("*.py")
        for value, _ in strings(path)
        if value in OBJECTIVES
    }
    # losses.py has the normalizer of masked-LM losses, which is named like the head.
    own = {"nsp.py", "sop.py", "mlm.py", "rtd.py", "minilm.py"}
    assert found == {*own, "options.py", "losses.py"}


def test_kinds_of_segments_are_named_in_their_file_and_by_objectives_alone():
    # A kind of model and a key of tokenizer.json have the same names.
    others = ("convert/verify.py", "text/byte_bpe_files.py", "text/tokenizer_files.py")
    for path in modules("data/segments.py", "objectives", *HEADS, *others):
        for value, _ in strings(path):
            assert value not in SEGMENTS, (path, value)


def test_the_table_is_whole():
    assert get_args(ObjectiveName) == tuple(OBJECTIVES) and get_args(SegmentsName) == (*SEGMENTS,)
    for name, objective in OBJECTIVES.items():
        assert objective.name == name and objective.export_kind in TASK_PARTS
        assert objective.best_metric == objective.metrics[0].name
        teacher = objective.needs_teacher
        assert choose_objective(name, objective.segments, has_teacher=teacher) == objective
        labeled = SEGMENTS[objective.segments].is_pair
        assert len(objective.arrays) == (4 if labeled else 3)


def test_segments_have_a_default_objective():
    found = {kind: choose_objective(None, kind).name for kind in SEGMENTS}
    assert found == {"next_sentence": "nsp", "sentence_order": "sop", "single": "mlm"}


def test_a_teacher_chooses_an_objective_and_belongs_to_it():
    options = ObjectiveOptions(minilm=MiniLMOptions(relation_heads=6))
    for kind in SEGMENTS:
        found = choose_objective(None, kind, options, has_teacher=True)
        assert found == RelationDistillation(relation_heads=6)
    with pytest.raises(UserError, match="minilm learns from another model: name it in `teacher`"):
        choose_objective("minilm", "single")
    with pytest.raises(UserError, match="`teacher` is for the objective minilm, and `objective` i"):
        choose_objective("mlm", "single", has_teacher=True)


def test_an_objective_on_other_segments():
    for name in ("mlm", "rtd"):
        assert all(choose_objective(name, kind).name == name for kind in SEGMENTS)
    with pytest.raises(UserError, match="nsp trains on next_sentence segments, and the data hold "):
        choose_objective("nsp", "single")
    options = ObjectiveOptions(RtdOptions(temperature=2.0))
    assert choose_objective("rtd", "single", options) == ReplacedTokenDetection(temperature=2.0)
