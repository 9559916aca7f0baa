"""Texts, pairs and lines that a model is given: checked, with their numbers, a chunk at a time."""

from collections.abc import Iterable, Iterator, Sequence

from bertjax.errors import UserError
from bertjax.interop.huggingface import Pretrained
from bertjax.tasks import tables

Text = str | tuple[str, str]

CHUNK = 1024
"""Lines read before the first answer: enough to group them by length."""


def max_length(model: Pretrained) -> int:
    """Tokens that the model was trained to read."""
    positions = model.config.max_position_embeddings
    said = (model.task or {}).get("max_seq_length")
    return min(said, positions) if isinstance(said, int) and said > 3 else positions


def check_texts(texts: Sequence[str]) -> None:
    """Raises a UserError where they are no list of texts that a tokenizer can read."""
    if isinstance(texts, str):
        raise UserError("texts is one string: give a list of strings.")
    for row, text in enumerate(texts):
        tables.check_text(text, f"Text {row + 1}")


def split_pairs(
    model: Pretrained, texts: Sequence[Text], *, any_form: bool = False
) -> tuple[list[str], list[str] | None]:
    """First and second texts, checked; None where there are no second ones."""
    if isinstance(texts, str):
        raise UserError("texts is one string: give a list of strings.")
    pairs = [text for text in texts if not isinstance(text, str)]
    task = model.task or {}
    if not any_form and "pair_column" in task and texts:
        wanted = task["pair_column"] is not None
        if (len(pairs) > 0) != wanted:
            form = "(text, pair)" if wanted else "one text"
            raise UserError(f"The model was trained on {form} a row: give that for every text.")
    if pairs and len(pairs) != len(texts):
        raise UserError("Some texts are pairs and some are not: give one form for all.")
    firsts = [text if isinstance(text, str) else text[0] for text in texts]
    seconds = [text[1] for text in pairs] if pairs else None
    check_texts(firsts)
    check_texts(seconds or [])
    return firsts, seconds


def parse_pair(line: str, number: int) -> tuple[str, str]:
    """The two texts of a line, of this number, with a tab between them."""
    first, tab, second = line.partition("\t")
    if not tab or "\t" in second:
        raise UserError(
            f"Line {number}: the model was trained on pairs; write two texts with a tab between."
        )
    return first, second


def chunks(
    lines: Iterable[str], size: int | None = None, *, longest: int | None = tables.MAX_FIELD
) -> Iterator[tuple[int, list[str]]]:
    """(number of the first line, lines) a chunk at a time, checked, without their ends.

    Args:
        lines: to read.
        size: most lines of a chunk; None: CHUNK.
        longest: most characters of a line; None where it may be any.
    """
    most = CHUNK if size is None else size
    chunk: list[str] = []
    first = 1
    for number, line in enumerate(lines, start=1):
        chunk.append(
            tables.check_text(
                line.removesuffix("\n").removesuffix("\r"), f"Line {number}", longest=longest
            )
        )
        if len(chunk) == most:
            yield first, chunk
            first, chunk = number + 1, []
    if chunk:
        yield first, chunk
