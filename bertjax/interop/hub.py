"""Downloads models by their names on the Hugging Face hub.

Nothing else in bertjax connects to the network by itself. A name is a string "owner/name" or
"owner/name@revision" that is not a path on this machine, or one of the names that models had before
there were owners, such as bert-base-uncased. Downloads need the extra `hub` and obey
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

# Models that the hub knows without an owner too, as most people write them.
_SQUAD = "whole-word-masking-finetuned-squad"
_OWNERS = {
    "google-bert": (
        *("bert-base-cased", "bert-base-uncased", "bert-large-cased", "bert-large-uncased"),
        *("bert-base-chinese", "bert-base-german-cased", "bert-base-cased-finetuned-mrpc"),
        *("bert-base-multilingual-cased", "bert-base-multilingual-uncased"),
        *("bert-base-german-dbmdz-cased", "bert-base-german-dbmdz-uncased"),
        *("bert-large-cased-whole-word-masking", "bert-large-uncased-whole-word-masking"),
        *(f"bert-large-cased-{_SQUAD}", f"bert-large-uncased-{_SQUAD}"),
    ),
    "distilbert": (
        *("distilbert-base-cased", "distilbert-base-uncased", "distilbert-base-german-cased"),
        *("distilbert-base-multilingual-cased", "distilbert-base-cased-distilled-squad"),
        "distilbert-base-uncased-distilled-squad",
        "distilbert-base-uncased-finetuned-sst-2-english",
    ),
}
OLD_NAMES = {name: f"{owner}/{name}" for owner, names in _OWNERS.items() for name in names}
"""Names without an owner -> names of the same models with it."""

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
    ~. A string is a path if that path exists, or if a directory with the owner's name exists. Of
    models that the hub knows without an owner, it is the name with the owner.
    """
    if not isinstance(path, str):
        return None
    bare, at, revision = path.partition("@")
    match = _NAME.fullmatch(f"{OLD_NAMES.get(bare, bare)}{at}{revision}")
    if match is None or epath.Path(path).exists():
        return None
    if epath.Path(bare if bare in OLD_NAMES else match[1]).exists():
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
