"""SHA-256 of the small files of an export, in which a flipped letter would change answers."""

import hashlib
import json

from etils import epath

from bertjax.config import read_json_object
from bertjax.errors import UserError

FILE = "bertjax_sha256.json"

_LARGE = (".safetensors", ".bin")  # weights, which take seconds to read


def write(directory: epath.Path) -> None:
    """Writes FILE: the digest of every file in the directory and one level below, weights not."""
    paths = sorted([*directory.glob("*"), *directory.glob("*/*")])
    digests = {
        str(path.relative_to(directory)): _digest(path)
        for path in paths
        if path.is_file() and path.suffix not in _LARGE
    }
    (directory / FILE).write_text(json.dumps(digests, indent=2) + "\n")


def check(directory: epath.Path) -> None:
    """Compares the files in a directory with its FILE, if it has one.

    Raises:
        UserError: a file is missing or differs, or FILE is damaged.
    """
    listing = directory / FILE
    if not listing.is_file():
        return
    for name, digest in read_json_object(listing).items():
        path = directory / name
        if ".." in path.parts:
            raise UserError(f"{listing}: names {name!r} outside of the directory; delete {FILE}.")
        if not path.is_file() or _digest(path) != digest:
            found = "differs from what was exported" if path.is_file() else "is missing"
            raise UserError(
                f"{path}: {found} (by its SHA-256 in {FILE}); restore it, or delete {FILE} if the "
                "change is meant."
            )


def _digest(path: epath.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
