"""Reads the texts of TFDS data sets that are stored locally as ArrayRecord, without TensorFlow.

tensorflow-datasets is imported only when a data set is opened. Nothing is downloaded.
"""

import dataclasses
import difflib
import functools
import re
from collections.abc import Iterator
from typing import Any

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
        from google.protobuf import message

        source = _data_source(self.directory, self.split)
        stop = self.examples if stop is None else stop
        for first in range(start, stop, _EXAMPLES_PER_READ):
            numbers = range(first, min(first + _EXAMPLES_PER_READ, stop))
            try:
                examples = source.__getitems__(list(numbers))
            except (RuntimeError, ValueError, IndexError, message.DecodeError) as error:
                raise UserError(
                    f"{self.name}: one of the examples {first:,} to {numbers[-1]:,} can't be read "
                    f"({_reason(error)}); {self.directory} is damaged, build it again."
                ) from None
            yield from (example[self.feature] for example in examples)


def find(specification: str, feature: str, data_dir: epath.PathLike | None) -> TfdsSplit:
    """Finds the split that `tfds:NAME[/CONFIG][:VERSION][:SPLIT]` names.

    The default version is the newest one in `data_dir`, the default split is train. The config may
    be omitted if there is only one. A split may be any that TFDS reads: train[:10%], train+test.
    A `data_dir` of None selects the default of TFDS: TFDS_DATA_DIR, then ~/tensorflow_datasets.

    Raises:
        UserError: there is no such data set, it is not stored as ArrayRecord, or it has no such
            text feature.
    """
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
    _check_feature(builder, specification, feature)
    split = match["split"] or "train"
    try:
        info = builder.info.splits[split]
    except (KeyError, ValueError, AssertionError):
        raise UserError(
            f"{specification}: has no split {split!r}, but {', '.join(builder.info.splits)}."
        ) from None
    splits = builder.info.splits.values()
    mean = sum(each.num_bytes for each in splits) / max(1, builder.info.splits.total_num_examples)
    name = directory.relative_to(root).parent
    return TfdsSplit(
        name=f"{PREFIX}{name}:{directory.name}:{split}",
        directory=str(directory),
        split=split,
        feature=feature,
        examples=info.num_examples,
        stored_bytes=round(mean * info.num_examples),
    )


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
            f"--file_format={_FORMAT} --data_dir={root}`, or give another `tfds_data_dir`."
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
