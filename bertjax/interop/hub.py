"""Models by their names on the Hugging Face hub: which words are such names, and downloading.

The only part of bertjax that connects to anything by itself. It is reached by a string of the form
"owner/name" or "owner/name@revision" that names nothing on this machine, needs the extra `hub`, and
obeys the variables of huggingface_hub (HF_HUB_OFFLINE, HF_HOME, HF_TOKEN, HF_ENDPOINT).
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from etils import epath

from bertjax.errors import UserError
from bertjax.interop.weights import WEIGHTS

_NAME = re.compile(r"([A-Za-z0-9][\w.-]*)/([A-Za-z0-9][\w.-]*)(?:@([\w.-]+(?:/[\w.-]+)*))?")

# What a model's directory needs, by exact names: nothing else of a repository is downloaded.
_ALWAYS = (
    "config.json",
    "vocab.txt",
    "spm.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
)
# The first of these that a repository has.
_WEIGHTS = (
    (WEIGHTS, f"{WEIGHTS}.index.json", "model-?????-of-?????.safetensors"),
    ("flax_model.msgpack",),
    (
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "pytorch_model-?????-of-?????.bin",
    ),
)


class HubName(NamedTuple):
    """A model on the hub."""

    repository: str
    """owner/name"""
    revision: str
    """A commit's hash, a tag or a branch."""

    def __str__(self) -> str:
        return self.repository if self.revision == "main" else "@".join(self)


def parse_name(path: epath.PathLike) -> HubName | None:
    """The name of a model on the hub, or None for a path.

    What exists is a path, and so is everything in a directory that exists; a name is a string, with
    one slash before the @, no scheme, and beginning as no path does (/ . ~).
    """
    match = _NAME.fullmatch(path) if isinstance(path, str) else None
    if match is None or epath.Path(path).exists() or epath.Path(match[1]).exists():
        return None
    return HubName(f"{match[1]}/{match[2]}", match[3] or "main")


def download(name: HubName) -> tuple[epath.Path, str]:
    """Downloads a model into huggingface_hub's cache; what is there already is not loaded again.

    Weights are safetensors, else Flax's, else PyTorch's. Offline, the cache is all there is.

    Returns:
        The directory, and "owner/name@" with the hash of the commit that it holds.

    Raises:
        UserError: huggingface_hub is not installed, or the hub has no such model or revision, wants
            permission, or can't be reached.
    """
    for patterns in _WEIGHTS:
        directory = _snapshot(name, (*_ALWAYS, *patterns))
        # By its hash, files that follow are of the same commit, even if the branch moves.
        name = HubName(name.repository, directory.name)
        if any(any(directory.glob(pattern)) for pattern in patterns):
            break
    return directory, "@".join(name)


def _snapshot(name: HubName, patterns: Iterable[str]) -> epath.Path:
    """The directory of a commit, with the files of these patterns that it has."""
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise UserError(
            f"{name}: no such directory, and names on the Hugging Face hub need another package: "
            "pip install 'bertjax[hub]'."
        ) from None
    # The base of all errors of the HTTP library underneath: requests, httpx or httpx2, by version.
    http_error: type[Exception] = errors.HfHubHTTPError.__bases__[0]
    try:
        path = huggingface_hub.snapshot_download(
            name.repository, revision=name.revision, allow_patterns=list(patterns)
        )
    except errors.GatedRepoError:
        reason = "its owner gives it only to those who asked; ask on its page, then set HF_TOKEN"
    except errors.RepositoryNotFoundError:
        reason = "no such directory, and the hub has no such model or it is private; check the name"
    except errors.RevisionNotFoundError:
        reason = f"the model has no revision {name.revision!r}; name a commit, a tag or a branch"
    except errors.HFValidationError:
        reason = "no such directory, and no name that the hub allows; check the name"
    except (OSError, http_error) as error:
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            reason = "not in the cache, and HF_HUB_OFFLINE forbids to download; unset it once"
        else:
            told = str(error).split("\n")[0].rstrip(".:")
            reason = f"the hub can't be reached or broke off ({told}); try again, or give a path"
    else:
        return epath.Path(path)
    raise UserError(f"{name}: {reason}.")
