"""Stable Diffusion 3.5 is a gated download: may we have it, what of it is needed, and get that."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from densenb.configs import REPOSITORIES, REVISIONS

# Of each component: configurations, tokenizers, and weights in their one, unlabelled precision;
# never the single file at the top, which holds all of it once more.
WEIGHTS = re.compile(r"(model|diffusion_pytorch_model)(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
SMALL = re.compile(r"[\w.-]+\.(json|txt|model)")
ALWAYS = ("scheduler", "tokenizer", "tokenizer_2")


class NoAccess(ValueError):
    """A gated model that we may not, or cannot, download; the message has what to do."""


class Unreachable(NoAccess):
    """The model's site does not answer: nobody knows whether we may."""


def steps_to_access(name: str) -> str:
    """The three steps to get Stable Diffusion 3.5, in one line each."""
    return (
        f"(1) Sign in and accept the licence on https://huggingface.co/{REPOSITORIES[name]}. "
        "(2) Create a token of the kind Read in your account's settings. "
        "(3) Give it to this machine: in Colab as the secret HF_TOKEN with notebook access, "
        "elsewhere by `hf auth login`."
    )


def check_access(name: str, api: HfApi | None = None) -> None:
    """Return if "medium" or "large" may be downloaded; NoAccess, with the three steps, if not."""
    repository = REPOSITORIES[name]
    try:
        (api or HfApi()).auth_check(repository)
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise NoAccess(
            f"you have no access to {repository} yet: {steps_to_access(name)} Until then, "
            'load("tiny") runs everything.'
        ) from error
    except Exception as error:  # the HTTP library, and with it the errors, change by version
        raise Unreachable(
            f"huggingface.co cannot be reached to load {repository} ({type(error).__name__}): "
            'check the network, or go on with load("tiny").'
        ) from error


def needed_files(listing: Mapping[str, int | None], parts: Iterable[str]) -> dict[str, int]:
    """Of a repository's files (path: bytes), those that loading `parts` needs.

    T5's tokenizer comes with T5.
    """
    parts = set(parts)
    folders = parts | set(ALWAYS)
    if "text_encoder_3" in parts:
        folders.add("tokenizer_3")
    needed = {}
    for path, size in listing.items():
        folder, _, name = path.rpartition("/")
        weights = name.startswith(("model", "diffusion_pytorch_model")) and "safetensors" in name
        pattern = WEIGHTS if weights else SMALL
        if path == "model_index.json" or (folder in folders and pattern.fullmatch(name)):
            needed[path] = size or 0
    return needed


def fetch(name: str, parts: Iterable[str], api: HfApi | None = None) -> Path:
    """The folder of "medium" or "large" with what `parts` need, downloaded if it is not there.

    Without a network, what an earlier run has downloaded. NoAccess if there is no permission.
    """
    repository, revision = REPOSITORIES[name], REVISIONS.get(name)
    try:
        check_access(name, api)
    except Unreachable:
        try:
            return Path(snapshot_download(repository, revision=revision, local_files_only=True))
        except LocalEntryNotFoundError:
            pass
        raise
    info = (api or HfApi()).model_info(repository, revision=revision, files_metadata=True)
    files = needed_files({file.rfilename: file.size for file in info.siblings}, parts)
    return Path(snapshot_download(repository, revision=info.sha, allow_patterns=list(files)))


def is_cached(name: str) -> bool:
    """Whether an earlier run has downloaded "medium" or "large"."""
    found = try_to_load_from_cache(
        REPOSITORIES[name], "model_index.json", revision=REVISIONS.get(name)
    )
    return isinstance(found, str)


def cache_folder() -> Path:
    """Where downloads go (HF_HOME moves it)."""
    return Path(constants.HF_HUB_CACHE)
