"""Stable Diffusion 3.5 is a gated download: check the access, choose the files, fetch them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from densenb.models.architecture import PARTS, REPOSITORIES, REVISIONS, T5

# Of each component: configurations, tokenizers, and weights in their one, unlabelled precision;
# never the single file at the top, which holds all of it once more.
WEIGHTS = re.compile(r"(model|diffusion_pytorch_model)(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
SMALL = re.compile(r"[\w.-]+\.(json|txt|model)")
ALWAYS = ("scheduler", "tokenizer", "tokenizer_2")
WITHOUT_T5 = tuple(part for part in PARTS if part != T5)


class NoAccess(ValueError):
    """A gated model cannot be downloaded; the message says how to get access."""


class Unreachable(NoAccess):
    """The model's site does not answer, so access could not be checked."""


def steps_to_access(name: str) -> str:
    """The three steps to get Stable Diffusion 3.5, in one line each."""
    return (
        f"(1) Sign in and accept the license on https://huggingface.co/{REPOSITORIES[name]}. "
        "(2) Create a token of the kind Read in your account's settings. "
        "(3) Give it to this machine: in Colab as the secret HF_TOKEN with notebook access, "
        "elsewhere by `hf auth login`."
    )


def check_access(name: str, api: HfApi | None = None) -> None:
    """Return if "medium" or "large" may be downloaded; NoAccess, with the three steps, if not."""
    repository = REPOSITORIES[name]
    try:
        (api or HfApi()).auth_check(repository)
    except Exception as error:  # the HTTP library, and with it the errors, change by version
        status = getattr(getattr(error, "response", None), "status_code", None)
        refused = isinstance(error, (GatedRepoError, RepositoryNotFoundError))
        if refused or status in (401, 403):  # 401: a token that has expired, too
            raise NoAccess(
                f"you have no access to {repository} yet: {steps_to_access(name)} Until then, "
                'load("tiny") runs everything.'
            ) from error
        raise Unreachable(
            f"huggingface.co cannot be reached to load {repository} ({type(error).__name__}): "
            'check the network, or go on with load("tiny").'
        ) from error


def needed_files(listing: Mapping[str, int | None], parts: Iterable[str]) -> dict[str, int]:
    """Of a repository's files (path: bytes), those that loading `parts` needs.

    T5's tokenizer comes with T5.
    """
    folders = _folders(parts)
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

    Without network or permission, an earlier download is used if it is complete; else NoAccess.
    """
    repository, revision, parts = REPOSITORIES[name], REVISIONS.get(name), tuple(parts)
    try:
        check_access(name, api)
    except NoAccess:
        if folder := downloaded(name, parts):
            return folder
        raise
    info = (api or HfApi()).model_info(repository, revision=revision, files_metadata=True)
    files = needed_files({file.rfilename: file.size for file in info.siblings}, parts)
    # not by `info.sha`: `downloaded` looks up the branch, whose commit the cache remembers
    return Path(snapshot_download(repository, revision=revision, allow_patterns=list(files)))


def downloaded(name: str, parts: Iterable[str]) -> Path | None:
    """The folder with all files that `parts` of "medium" or "large" need, if they are there."""
    found = try_to_load_from_cache(
        REPOSITORIES[name], "model_index.json", revision=REVISIONS.get(name)
    )
    if not isinstance(found, str):
        return None
    folder, parts = Path(found).parent, set(parts)
    whole = all((folder / each).is_dir() for each in _folders(parts))
    return folder if whole and all(has_weights(folder / part) for part in parts) else None


def has_weights(folder: Path) -> bool:
    """Whether a component has all of its weights: the one file, or every file of its index."""
    for stem in ("model", "diffusion_pytorch_model"):
        if (folder / f"{stem}.safetensors").is_file():
            return True
        index = folder / f"{stem}.safetensors.index.json"
        if index.is_file():
            files = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            return all((folder / file).is_file() for file in files)
    return False


def is_cached(name: str, parts: Iterable[str] = WITHOUT_T5) -> bool:
    """Whether an earlier run has downloaded `parts`, by default those that every plan needs."""
    return downloaded(name, parts) is not None


def _folders(parts: Iterable[str]) -> set[str]:
    """The folders of a repository that loading `parts` needs."""
    folders = {*parts, *ALWAYS}
    return folders | {"tokenizer_3"} if T5 in folders else folders


def cache_folder() -> Path:
    """Where downloads go (HF_HOME moves it)."""
    return Path(constants.HF_HUB_CACHE)
