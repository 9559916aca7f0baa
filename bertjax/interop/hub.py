"""Downloads models by their names on the Hugging Face hub.

Nothing else in bertjax connects to the network by itself. A name is a string "owner/name" or
"owner/name@revision" that is not a path on this machine. Downloads need the extra `hub` and obey
the variables of huggingface_hub (HF_HUB_OFFLINE, HF_HOME, HF_TOKEN, HF_ENDPOINT).
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from etils import epath

from bertjax.errors import UserError
from bertjax.interop import sentence_transformers
from bertjax.interop.encoder_decoder import DECODER_TOKENIZER
from bertjax.interop.weights import FLAX_WEIGHTS, HEAD_WEIGHTS, TORCH_WEIGHTS, WEIGHTS
from bertjax.text.tokenizer import TOKENIZER_FILES

_NAME = re.compile(r"([A-Za-z0-9][\w.-]*)/([A-Za-z0-9][\w.-]*)(?:@([\w.-]+(?:/[\w.-]+)*))?")

# Names of the files that a model needs; [0-9]_ begins the names of sentence-transformers' modules.
# Nothing else of a repository is downloaded.
_ALWAYS = (
    *("config.json", HEAD_WEIGHTS, *TOKENIZER_FILES, *sentence_transformers.FILES),
    *("[0-9]_*/config.json", "[0-9]_*/model.safetensors", "[0-9]_*/pytorch_model.bin"),
    *(f"{DECODER_TOKENIZER}/{name}" for name in TOKENIZER_FILES),
)
# Weight files by format; the first format that a repository has is downloaded.
_WEIGHTS = (
    (WEIGHTS, f"{WEIGHTS}.index.json", "model-?????-of-?????.safetensors"),
    (FLAX_WEIGHTS,),
    (TORCH_WEIGHTS, f"{TORCH_WEIGHTS}.index.json", "pytorch_model-?????-of-?????.bin"),
)


class HubName(NamedTuple):
    """A model on the hub."""

    repository: str  # owner/name
    revision: str  # hash of a commit, a tag or a branch

    def __str__(self) -> str:
        return self.repository if self.revision == "main" else "@".join(self)


def parse_name(path: epath.PathLike) -> HubName | None:
    """Returns the name of a model on the hub, or None for a path.

    A name is a string with one slash before the @. It has no scheme and does not begin with /, . or
    ~. A string is a path if that path exists, or if a directory with the owner's name exists.
    """
    match = _NAME.fullmatch(path) if isinstance(path, str) else None
    if match is None or epath.Path(path).exists() or epath.Path(match[1]).exists():
        return None
    return HubName(f"{match[1]}/{match[2]}", match[3] or "main")


def download(name: HubName) -> tuple[epath.Path, str]:
    """Downloads a model into huggingface_hub's cache, unless the cache has it already.

    Weights are safetensors, else Flax's, else PyTorch's. Offline, only the cache is used. Returns
    the directory, and "owner/name@" with the hash of its commit.

    Raises:
        UserError: huggingface_hub is not installed; the hub has no such model or revision, requires
            permission, or can't be reached.
    """
    for patterns in _WEIGHTS:
        directory = _snapshot(name, (*_ALWAYS, *patterns))
        # With the hash, the files that follow come from the same commit even if the branch moves.
        name = HubName(name.repository, directory.name)
        if any(any(directory.glob(pattern)) for pattern in patterns):
            break
    return directory, "@".join(name)


def _snapshot(name: HubName, patterns: Iterable[str]) -> epath.Path:
    """Downloads the files of a commit that match the patterns; returns their directory."""
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise UserError(
            f"{name}: no such directory, and names on the Hugging Face hub need another package: "
            "pip install 'bertjax[hub]'."
        ) from None
    # The base class of the HTTP library's errors: requests, httpx or httpx2, by version.
    http_error: type[Exception] = errors.HfHubHTTPError.__bases__[0]
    try:
        path = huggingface_hub.snapshot_download(
            name.repository, revision=name.revision, allow_patterns=list(patterns)
        )
        return epath.Path(path)
    except errors.GatedRepoError:
        reason = "its owner must grant access; request it on the model's page, then set HF_TOKEN"
    except errors.RepositoryNotFoundError:
        reason = "no such directory, and the hub has no such model or it is private; check the name"
    except errors.RevisionNotFoundError:
        reason = f"the model has no revision {name.revision!r}; name a commit, a tag or a branch"
    except errors.HFValidationError:
        reason = "no such directory, and not a valid name on the hub; check the name"
    except (OSError, http_error) as error:
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            reason = "not in the cache, and HF_HUB_OFFLINE forbids downloads; unset it once"
        else:
            told = str(error).split("\n")[0].rstrip(".:")
            reason = f"the download failed ({told}); try again, or give a path"
    raise UserError(f"{name}: {reason}.")
