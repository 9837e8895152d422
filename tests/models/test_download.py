"""Gated access: the three steps, what is downloaded, and what happens without a network."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from densenb.models import download
from densenb.models.architecture import PARTS, REPOSITORIES
from densenb.models.download import (
    WITHOUT_T5,
    NoAccess,
    Unreachable,
    check_access,
    fetch,
    is_cached,
    needed_files,
)

# As the released repositories are laid out.
LISTING = {
    ".gitattributes": 1,
    "LICENSE.md": 1,
    "README.md": 1,
    "mmdit.png": 1,
    "model_index.json": 1,
    "sd3.5_medium.safetensors": 5_000,
    "text_encoders/t5xxl_fp16.safetensors": 9_000,
    "text_encoders/clip_l.safetensors": 250,
    "scheduler/scheduler_config.json": 1,
    "text_encoder/config.json": 1,
    "text_encoder/model.safetensors": 250,
    "text_encoder/model.fp16.safetensors": 250,
    "text_encoder_2/config.json": 1,
    "text_encoder_2/model.safetensors": 1_400,
    "text_encoder_2/model.fp16.safetensors": 1_400,
    "text_encoder_3/config.json": 1,
    "text_encoder_3/model-00001-of-00002.safetensors": 5_000,
    "text_encoder_3/model-00002-of-00002.safetensors": 4_500,
    "text_encoder_3/model.safetensors.index.json": 1,
    "text_encoder_3/model.fp16-00001-of-00002.safetensors": 5_000,
    "text_encoder_3/model.safetensors.index.fp16.json": 1,
    "tokenizer/merges.txt": 1,
    "tokenizer/special_tokens_map.json": 1,
    "tokenizer/tokenizer_config.json": 1,
    "tokenizer/vocab.json": 1,
    "tokenizer_2/merges.txt": 1,
    "tokenizer_2/vocab.json": 1,
    "tokenizer_3/spiece.model": 1,
    "tokenizer_3/tokenizer.json": 1,
    "transformer/config.json": 1,
    "transformer/diffusion_pytorch_model.safetensors": 4_900,
    "vae/config.json": 1,
    "vae/diffusion_pytorch_model.safetensors": 170,
}


class Api:
    """A Hugging Face that answers as it is told, and counts."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def auth_check(self, repository: str) -> None:
        assert repository in REPOSITORIES.values()
        if self.error:
            raise self.error

    def model_info(self, repository, revision, files_metadata):
        files = [SimpleNamespace(rfilename=name, size=size) for name, size in LISTING.items()]
        return SimpleNamespace(sha="c0ffee", siblings=files)


def hub_error(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, "no")
    return error


# --------------------------------------------------------------------------------- what is needed
def test_everything_is_downloaded_once():
    needed = needed_files(LISTING, PARTS)
    weights = {path: size for path, size in needed.items() if path.endswith(".safetensors")}
    assert sorted(weights.values()) == [170, 250, 1_400, 4_500, 4_900, 5_000]
    assert not any("fp16" in path for path in needed)
    assert not any(path.startswith(("sd3.5", "text_encoders/")) for path in needed)
    folders = {path.split("/")[0] for path in needed}
    assert folders == {
        "model_index.json", "scheduler", "tokenizer", "tokenizer_2", "tokenizer_3", *PARTS,
    }  # fmt: skip
    assert "text_encoder_3/model.safetensors.index.json" in needed
    assert {"tokenizer/merges.txt", "tokenizer/vocab.json"} < needed.keys()


def test_without_t5_neither_its_weights_nor_its_tokenizer():
    needed = needed_files(LISTING, WITHOUT_T5)
    assert not any("_3/" in path for path in needed)
    assert sum(needed.values()) < 7_000 < sum(needed_files(LISTING, PARTS).values())


def test_a_file_of_unknown_size_is_needed_all_the_same():
    assert needed_files({"vae/diffusion_pytorch_model.safetensors": None}, ["vae"]) == {
        "vae/diffusion_pytorch_model.safetensors": 0
    }


# --------------------------------------------------------------------------------------- may we?
def test_access_is_silent_when_granted():
    assert check_access("medium", Api()) is None


@pytest.mark.parametrize("kind", [GatedRepoError, RepositoryNotFoundError])
def test_without_permission_there_are_three_steps(kind):
    with pytest.raises(NoAccess) as caught:
        check_access("large", Api(hub_error(kind)))
    message = str(caught.value)
    assert not isinstance(caught.value, Unreachable)
    assert "huggingface.co/stabilityai/stable-diffusion-3.5-large" in message
    assert all(step in message for step in ("(1)", "license", "(2)", "Read", "(3)", "HF_TOKEN"))
    assert 'load("tiny")' in message


@pytest.mark.parametrize("error", [ConnectionError("no"), TimeoutError(), RuntimeError("httpx")])
def test_without_a_network_it_says_so(error):
    with pytest.raises(Unreachable, match=f"cannot be reached.*{type(error).__name__}.*network"):
        check_access("medium", Api(error))


def test_offline_mode_is_no_access_either(monkeypatch):
    """With the real client, which must not get as far as the network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(Unreachable):
        check_access("medium")


# --------------------------------------------------------------------------------------- fetching
def test_fetch_downloads_what_is_needed_and_the_cache_remembers_it(monkeypatch, tmp_path):
    asked = {}

    def snapshot_download(repository, **options):
        asked.update(options, repository=repository)
        return str(tmp_path)

    monkeypatch.setattr(download, "snapshot_download", snapshot_download)
    assert fetch("medium", WITHOUT_T5, Api()) == tmp_path
    assert asked["repository"] == REPOSITORIES["medium"]
    assert asked["revision"] is None  # a commit would leave no ref to find the download by
    assert set(asked["allow_patterns"]) == set(needed_files(LISTING, WITHOUT_T5))


def test_nothing_is_downloaded_without_permission(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(download, "snapshot_download", lambda *_, **__: pytest.fail("downloaded"))
    with pytest.raises(NoAccess, match="no access"):
        fetch("medium", PARTS, Api(hub_error(GatedRepoError)))


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The folder of a commit in the client's own cache, as a download by the branch leaves it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / f"models--{REPOSITORIES['medium'].replace('/', '--')}"
    folder = repository / "snapshots" / "c0ffee"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("c0ffee")
    for path in needed_files(LISTING, PARTS):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}})
    (folder / "text_encoder_3" / "model.safetensors.index.json").write_text(index)
    return folder


REFUSED = [ConnectionError(), hub_error(GatedRepoError), hub_error(RepositoryNotFoundError)]


@pytest.mark.parametrize("error", REFUSED, ids=lambda error: type(error).__name__)
def test_without_network_or_permission_an_earlier_download_will_do(cache, error):
    assert is_cached("medium", PARTS) and not is_cached("large")
    assert fetch("medium", PARTS, Api(error)) == cache


@pytest.mark.parametrize(
    "lost",
    [
        "text_encoder_3/model-00002-of-00002.safetensors",
        "text_encoder_3/model.safetensors.index.json",
        "tokenizer_3",
    ],
)
def test_half_a_download_will_not_do(cache, lost):
    path = cache / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    for error in REFUSED:
        with pytest.raises(NoAccess):
            fetch("medium", PARTS, Api(error))
        assert fetch("medium", WITHOUT_T5, Api(error)) == cache
    assert is_cached("medium") and not is_cached("medium", PARTS)


def test_configurations_are_not_weights(cache):
    (cache / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    assert not is_cached("medium")


def test_an_expired_token_is_no_access():
    error = OSError("401 Client Error")
    error.response = SimpleNamespace(status_code=401)
    with pytest.raises(NoAccess, match="you have no access") as caught:
        check_access("medium", Api(error))
    assert not isinstance(caught.value, Unreachable)
