"""Reads TFDS data sets that are stored locally as ArrayRecord, without TensorFlow.

tensorflow-datasets is imported only when a data set is opened. Nothing is downloaded.
"""

import dataclasses
import difflib
import functools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from bertjax.errors import UserError
from bertjax.files import is_local

PREFIX = "tfds:"

_SPECIFICATION = re.compile(
    r"(?P<name>\w+)(?:/(?P<config>[\w+.-]+))?(?::(?P<version>\d+\.\d+\.\d+))?(?::(?P<split>\D.*))?"
)
_FORMAT = "array_record"
_INFO = "dataset_info.json"
_EXAMPLES_PER_READ = 64


@dataclasses.dataclass(frozen=True)
class TfdsSplit:
    """One text feature of the examples of a split."""

    name: str  # in errors and manifests: tfds:wikipedia/20230601.en:1.0.0:train
    directory: str  # of the version; it holds dataset_info.json
    split: str
    feature: str
    examples: int
    stored_bytes: int  # the approximate size of the examples on disk, with all of their features

    def __str__(self) -> str:
        return self.name

    def texts(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yields the texts of examples `start` to `stop`, by default of all examples.

        Raises:
            UserError: an example cannot be read.
        """
        stop = self.examples if stop is None else stop
        examples = _examples(self.directory, self.split, self.name, range(start, stop))
        yield from (example[self.feature] for example in examples)


def rows(specification: str) -> tuple[str, Iterator[dict[str, Any]]]:
    """Finds a split as `find` does and returns its full name and its examples, all features.

    Values are those of JSON: texts, numbers, lists and dicts. A class label is its name, or None if
    the example has none (-1, as in the test splits of GLUE).

    Raises:
        UserError: there is no such data set, or it is not stored as ArrayRecord. Iterating raises
            it if an example can't be read.
    """
    split = _open(specification, None)
    names = range(split.info.num_examples)
    features = split.builder.info.features
    if not hasattr(features, "items"):
        raise UserError(f"{split.name}: its examples have no named features; give another one.")
    examples = _examples(split.directory, split.split, split.name, names)
    return split.name, (
        _plain(example, features, f"{split.name}:{number}")
        for number, example in zip(names, examples, strict=True)
    )


def _plain(value: Any, feature: Any, where: str) -> Any:
    """Returns a value of an example as JSON has it."""
    inner = getattr(feature, "feature", feature)  # that of a sequence
    if isinstance(value, dict):
        return {name: _plain(each, inner[name], where) for name, each in value.items()}
    if isinstance(value, list) or getattr(value, "shape", ()):
        return [_plain(each, inner, where) for each in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise UserError(f"{where}: a text is not UTF-8; build the data set again.") from None
    if hasattr(feature, "int2str"):
        return feature.int2str(int(value)) if value >= 0 else None
    number = np.dtype(feature.np_dtype).type(value)
    # The digits of a float32 are those of its own precision.
    return float(str(number)) if isinstance(number, np.floating) else number.item()


def find(specification: str, feature: str, data_dir: epath.PathLike | None) -> TfdsSplit:
    """Finds the split that `tfds:NAME[/CONFIG][:VERSION][:SPLIT]` names.

    The default version is the newest one in `data_dir`, the default split is train. The config may
    be omitted if there is only one. A split may be any that TFDS reads: train[:10%], train+test.
    A `data_dir` of None selects the default of TFDS: TFDS_DATA_DIR, then ~/tensorflow_datasets.

    Raises:
        UserError: there is no such data set, it is not stored as ArrayRecord, or it has no such
            text feature.
    """
    found = _open(specification, data_dir)
    _check_feature(found.builder, specification, feature)
    splits = found.builder.info.splits
    mean = sum(each.num_bytes for each in splits.values()) / max(1, splits.total_num_examples)
    return TfdsSplit(
        name=found.name,
        directory=found.directory,
        split=found.split,
        feature=feature,
        examples=found.info.num_examples,
        stored_bytes=round(mean * found.info.num_examples),
    )


class _Opened(NamedTuple):
    name: str
    directory: str
    builder: Any
    split: str
    info: Any


def _open(specification: str, data_dir: epath.PathLike | None) -> _Opened:
    """Finds the data set and the split of a specification."""
    match = _SPECIFICATION.fullmatch(specification.removeprefix(PREFIX))
    if match is None:
        raise UserError(
            f"{specification}: not the name of a TFDS data set; write tfds:NAME[/CONFIG][:VERSION]"
            "[:SPLIT], for example tfds:wikipedia/20230601.en:1.0.0:train."
        )
    root = _root(data_dir)
    directory = _directory(match, specification, root)
    builder = _builder(str(directory), specification)
    _check_format(builder, specification, directory)
    split = match["split"] or "train"
    try:
        info = builder.info.splits[split]
    except (KeyError, ValueError, AssertionError):
        raise UserError(
            f"{specification}: has no split {split!r}, but {', '.join(builder.info.splits)}."
        ) from None
    name = f"{PREFIX}{directory.relative_to(root).parent}:{directory.name}:{split}"
    return _Opened(name, str(directory), builder, split, info)


def _examples(directory: str, split: str, name: str, numbers: range) -> Iterator[dict[str, Any]]:
    """Yields examples by their numbers."""
    from google.protobuf import message

    source = _data_source(directory, split)
    for first in numbers[::_EXAMPLES_PER_READ]:
        chosen = range(first, min(first + _EXAMPLES_PER_READ, numbers.stop))
        try:
            yield from source.__getitems__(list(chosen))
        except (RuntimeError, ValueError, IndexError, message.DecodeError) as error:
            raise UserError(
                f"{name}: one of the examples {first:,} to {chosen[-1]:,} can't be read "
                f"({_reason(error)}); {directory} is damaged, build it again."
            ) from None


def _root(data_dir: epath.PathLike | None) -> epath.Path:
    if data_dir is None:
        from tensorflow_datasets.core import constants

        return epath.Path(constants.get_default_data_dir())
    if not is_local(data_dir):
        raise UserError(f"{data_dir}: TFDS data sets are read from a local disk; copy it to one.")
    return epath.Path(data_dir).expanduser()


def _directory(match: re.Match[str], specification: str, root: epath.Path) -> epath.Path:
    """Returns the directory of the matched version."""
    directory = root / match["name"]
    if config := match["config"]:
        directory /= config
    elif not _versions(directory):
        configs = [path.name for path in _directories(directory) if _versions(path)]
        if len(configs) > 1:
            raise UserError(
                f"{specification}: has several configs in {root}; name one of "
                f"{', '.join(configs)}, for example {PREFIX}{match['name']}/{configs[0]}."
            )
        directory = directory / configs[0] if configs else directory
    versions = _versions(directory)
    if not versions:
        raise _unknown(match, specification, root)
    if (version := match["version"]) and version not in versions:
        raise UserError(
            f"{specification}: version {version} is not in {directory}; give one of "
            f"{', '.join(versions)}."
        )
    return directory / (version or versions[-1])


def _versions(directory: epath.Path) -> list[str]:
    """Returns the names of the complete versions in a directory, oldest first."""
    names = [path.name for path in _directories(directory) if (path / _INFO).exists()]
    versions = [name for name in names if re.fullmatch(r"\d+\.\d+\.\d+", name)]
    return sorted(versions, key=lambda name: tuple(map(int, name.split("."))))


def _directories(directory: epath.Path) -> list[epath.Path]:
    paths = directory.iterdir() if directory.is_dir() else ()
    return sorted(path for path in paths if path.is_dir())


def _unknown(match: re.Match[str], specification: str, root: epath.Path) -> UserError:
    """Returns the error for a missing data set: how to build it, or the nearest names."""
    wanted = f"{match['name']}/{match['config']}" if match["config"] else match["name"]
    there = [
        inner.relative_to(root).as_posix()
        for path in _directories(root)
        for inner in (path, *_directories(path))
        if _versions(inner)
    ]
    # The second import registers the builders of texts.
    import tensorflow_datasets as tfds
    import tensorflow_datasets.text  # pyright: ignore[reportUnusedImport]

    known = tfds.list_builders(with_community_datasets=False)
    if match["name"] in known:
        return UserError(
            f"{specification}: is not in {root}, and bertjax downloads nothing; build it where "
            f"TensorFlow and Apache Beam are installed, `tfds build {wanted} "
            f"--file_format={_FORMAT} --data_dir={root}`, or set TFDS_DATA_DIR to another "
            "directory."
        )
    near = difflib.get_close_matches(wanted, [*there, *known])
    advice = f"there are {', '.join(there[:5])}" if there else "that directory has no data set"
    if near:
        advice = f"the nearest are {', '.join(near)}"
    return UserError(f"{specification}: neither {root} nor TFDS has such a data set; {advice}.")


def _builder(directory: str, where: str) -> Any:
    import tensorflow_datasets as tfds
    from google.protobuf import json_format

    try:
        return tfds.builder_from_directory(directory)
    except (ValueError, TypeError, KeyError, OSError, json_format.Error) as error:
        raise UserError(
            f"{where}: {directory} can't be read as a data set ({_reason(error)}); build it again."
        ) from None


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


def _check_format(builder: Any, specification: str, directory: epath.Path) -> None:
    formats = sorted(each.value for each in builder.info.available_file_formats())
    if _FORMAT not in formats:
        raise UserError(
            f"{specification}: is stored as {', '.join(formats) or 'an unknown format'}, and only "
            f"{_FORMAT} is read without TensorFlow; where TensorFlow and Apache Beam are "
            f"installed, convert it in place: `tfds convert_format --out_file_format={_FORMAT} "
            f"--dataset_version_dir={directory}`."
        )


def _check_feature(builder: Any, specification: str, feature: str) -> None:
    import tensorflow_datasets as tfds

    features = builder.info.features
    named = features.items() if isinstance(features, tfds.features.FeaturesDict) else ()
    texts = sorted(name for name, each in named if isinstance(each, tfds.features.Text))
    if feature not in texts:
        there = f"but it has {', '.join(texts)} (`text_feature`)" if texts else "nor any other"
        raise UserError(f"{specification}: has no text feature {feature!r}, {there}.")


@functools.cache  # opens a split once per process
def _data_source(directory: str, split: str) -> Any:
    return _builder(directory, directory).as_data_source(split, file_format=_FORMAT)
