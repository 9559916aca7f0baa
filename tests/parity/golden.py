"""Golden files: numbers of another implementation, with their origin."""

import datetime
import json
import pathlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent / "golden"
LIBRARIES = ("transformers",)
_METADATA = "metadata"


def save(path: pathlib.Path, arrays: dict[str, np.ndarray], library: str, versions: dict) -> None:
    """Writes arrays as .npz, with their origin and date."""
    metadata = {
        "library": library,
        "script": "tests/parity/reference.py",
        "versions": versions,
        "date": datetime.date.today().isoformat(),
    }
    np.savez_compressed(path, **{_METADATA: np.array(json.dumps(metadata))}, **arrays)


def load(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a golden file.

    Raises:
        ValueError: no other implementation made it, and so it proves nothing.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    check(path, json.loads(str(arrays.pop(_METADATA, "{}"))))
    return arrays


def metadata(path: pathlib.Path) -> dict:
    """Returns the origin and date of a golden file."""
    with np.load(path, allow_pickle=False) as file:
        return json.loads(str(file[_METADATA]))


def check(path: pathlib.Path, metadata: dict) -> None:
    """Refuses files that none of LIBRARIES made, and files that bertjax took part in."""
    versions = metadata.get("versions", {})
    if metadata.get("library") not in LIBRARIES or {"bertjax", "jax"} & set(versions):
        raise ValueError(
            f"{path}: made by {metadata.get('library')!r} with {versions}: a golden file has to be "
            f"made by {' or '.join(LIBRARIES)} alone; run reference.py in the extra parity."
        )
    missing = {"torch", "transformers"} - set(versions)
    if missing or not metadata.get("date"):
        raise ValueError(f"{path}: doesn't say its date and its versions of torch, transformers.")
