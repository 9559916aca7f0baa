"""Files of sentences with tags, in any of their formats."""

from typing import Any

from etils import epath

from bertjax.errors import UserError
from bertjax.files import location
from bertjax.tasks.token_classification.columns import FORMATS, read_columns
from bertjax.tasks.token_classification.json_rows import first_keys, read_entities, read_lists
from bertjax.tasks.token_classification.tagged import Tagged, in_iob2, with_names
from bertjax.text import compressed, corpus, tfds_source


def read_tagged(path: epath.PathLike, options: Any) -> Tagged:
    """Reads sentences with tags.

    Args:
        path: a file of columns separated by tabs or spaces, with a word a line and a blank line
            between sentences; or JSON Lines, or a TFDS data set, with lists of tokens and of tags
            or with a text and its entities.
        options: token_column, tag_column, column_names, tag_names and scheme.

    Raises:
        UserError: something is wrong with the file or its tags; the sentence names the line.
    """
    if not _is_json(path):
        tagged = read_columns(location(path), options)
    elif options.token_column is None and {"text", "entities"} <= first_keys(path):
        return read_entities(path, options)
    else:
        tagged = read_lists(path, options)
    return in_iob2(with_names(tagged, options.tag_names), options.scheme)


def _is_json(path: epath.PathLike) -> bool:
    if str(path).startswith(tfds_source.PREFIX):
        return True
    suffix = epath.Path(compressed.text_name(location(path))).suffix.lower()
    if suffix == ".csv":
        raise UserError(f"{path}: is a .csv file; write words and tags as {FORMATS}.")
    return suffix in (*corpus.JSON_LINES, ".json")
