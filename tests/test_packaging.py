"""The promises of the packaging: one list of dependencies, kind to Colab, quiet on import."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CORE = PYPROJECT["project"]["dependencies"]
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
ALL = [*CORE, *(line for extra in EXTRAS.values() for line in extra)]

# ---------------------------------------------------------------- one list of dependencies


def bounds(lines: list[str]) -> dict[str, str]:
    """{canonical name: version specifier}, refusing a name that is listed twice."""
    requirements = [Requirement(line) for line in lines]
    found = {canonicalize_name(r.name): str(r.specifier) for r in requirements}
    assert len(found) == len(requirements), "a package is listed twice"
    return found


def listed(name: str) -> list[str]:
    """Lines of a requirements file without comments and blanks."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def conda_pip_list() -> list[str]:
    """The `pip:` list of environment.yml, read by its layout: no YAML reader is a dependency."""
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    return re.findall(r"^      - (.+)$", text.split("  - pip:\n")[1], flags=re.MULTILINE)


@pytest.mark.parametrize("lines", [listed("requirements.txt"), conda_pip_list()])
def test_requirement_files_equal_pyproject(lines: list[str]) -> None:
    assert lines[0] == "-e ."
    assert bounds(lines[1:]) == bounds(ALL)


def test_environment_asks_for_the_same_python() -> None:
    python = f"  - python{PYPROJECT['project']['requires-python']}\n"
    assert python in (ROOT / "environment.yml").read_text(encoding="utf-8")


def test_every_bound_is_a_lower_bound_and_nothing_else() -> None:
    assert all(re.fullmatch(r">=[\d.]+", bound) for bound in bounds(ALL).values())


def test_constraints_pin_every_dependency_within_its_bound() -> None:
    pins = bounds(listed("constraints.txt"))
    assert all(re.fullmatch(r"==[\w.]+", pin) for pin in pins.values())
    for line in ALL:
        requirement = Requirement(line)
        pin = Version(pins[canonicalize_name(requirement.name)].removeprefix("=="))
        assert pin in requirement.specifier, line
    assert "torch==2.13.0" in listed("constraints.txt")


# ---------------------------------------------------------------- kind to Colab

# Colab's runtime of August 2026, as published in googlecolab/backend-info, with those
# requirements of its packages that bear on each other.
COLAB = {
    "torch": ("2.11.0", ["filelock", "typing-extensions>=4.10.0", "fsspec>=0.8.5"]),
    "diffusers": (
        "0.39.0",
        ["huggingface-hub<2.0,>=0.34.0", "numpy", "regex!=2019.12.17", "safetensors>=0.8.0"],
    ),
    "transformers": (
        "5.15.0",
        [
            "huggingface-hub<2.0,>=1.5.0",
            "numpy>=1.17",
            "tokenizers<=0.23.0,>=0.22.0",
            "safetensors>=0.8.0",
            "tqdm>=4.60",
        ],
    ),
    "accelerate": ("1.13.0", ["numpy>=1.17", "torch>=2.0.0", "huggingface_hub>=0.21.0"]),
    "ipywidgets": (
        "7.7.1",
        ["ipykernel>=4.5.1", "ipython>=4.0.0", "traitlets>=4.3.1", "widgetsnbextension~=3.6.0"],
    ),
    "matplotlib": ("3.10.0", ["numpy>=1.23", "pillow>=8"]),
    "ipython": ("7.34.0", ["traitlets>=4.2"]),
    "ipykernel": ("6.17.1", ["ipython>=7.23.1", "traitlets>=5.1.0"]),
    "numpy": ("2.1.3", []),
    "huggingface_hub": ("1.17.0", ["filelock", "fsspec>=2023.5.0", "tqdm>=4.42.1"]),
    "tokenizers": ("0.22.2", ["huggingface-hub<2.0,>=0.16.4"]),
    "safetensors": ("0.8.0", []),
    "sentencepiece": ("0.2.1", []),
    "protobuf": ("5.29.6", []),
    "pillow": ("11.3.0", []),
    "tqdm": ("4.67.3", []),
    "regex": ("2025.11.3", []),
    "filelock": ("3.29.0", []),
    "fsspec": ("2025.3.0", []),
    "traitlets": ("5.7.1", []),
    "typing_extensions": ("4.15.0", []),
    "widgetsnbextension": ("3.6.10", []),
}
UNTOUCHED = {"torch", "numpy", "ipywidgets", "ipython"}


def test_the_set_of_make_test_colab_is_this_one_and_serves_the_core() -> None:
    pins = bounds(listed("constraints-colab.txt"))
    assert {canonicalize_name(n): f"=={v}" for n, (v, _) in COLAB.items()}.items() <= pins.items()
    for line in CORE:
        requirement = Requirement(line)
        pin = pins[canonicalize_name(requirement.name)].removeprefix("==")
        assert Version(pin) in requirement.specifier, line


@pytest.fixture(scope="module")
def colab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a fresh environment in which pip sees Colab's packages: metadata, no code."""
    home = tmp_path_factory.mktemp("colab")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    python = next(p for p in (home / "bin/python", home / "Scripts/python.exe") if p.exists())
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", where], check=True, capture_output=True, text=True)
    for name, (version, requires) in COLAB.items():
        info = Path(site.stdout.strip()) / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        fields = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        fields += [f"Requires-Dist: {requirement}" for requirement in requires]
        (info / "METADATA").write_text("\n".join(fields) + "\n", encoding="utf-8")
        (info / "INSTALLER").write_text("pip\n", encoding="utf-8")
        (info / "RECORD").touch()
    return python


def would_install(python: Path, requirements: list[str]) -> set[str]:
    """Names that `pip install` would fetch; skips the test when the package index is away."""
    options = ["--dry-run", "--quiet", "--report", "-", "--retries", "1", "--timeout", "20"]
    command = [sys.executable, "-m", "pip", "--python", python, "install", *options, *requirements]
    result = subprocess.run(command, capture_output=True, text=True)
    unreachable = r"from versions: none|connection|could not fetch url"
    if result.returncode and re.search(unreachable, result.stderr, re.I):
        pytest.skip("the package index cannot be reached")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    return {canonicalize_name(item["metadata"]["name"]) for item in report["install"]}


def test_installing_the_core_leaves_colabs_packages_alone(colab: Path) -> None:
    assert not would_install(colab, CORE) & UNTOUCHED


def test_a_bound_above_colabs_would_be_seen(colab: Path) -> None:
    assert "ipywidgets" in would_install(colab, [*CORE, "ipywidgets>=8"]) & UNTOUCHED


# ---------------------------------------------------------------- quiet on import

QUIET_IMPORT = """
import socket

def refuse(*args, **kwargs):
    raise OSError(f"the import reached for the network: {args[1:]}")

socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = refuse
socket.getaddrinfo = refuse

import densenb
import torch

assert not torch.cuda.is_initialized(), "the import initialised the GPU"
print("quiet")
"""


def test_import_touches_neither_network_nor_gpu() -> None:
    command = [sys.executable, "-c", QUIET_IMPORT]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.strip() == "quiet", result.stderr


# ---------------------------------------------------------------- the house

HOUSE = ROOT / "densenb"
ROOMS = {
    *("layout", "modulation", "attention", "sd3", "recording", "models", "plots", "widgets"),
    *("evaluation", "lessons", "miniature", "cli"),
}
LINES = 450  # one idea a file; the kernels keep two passes and their tuning together


def source_files() -> list[Path]:
    return sorted(HOUSE.rglob("*.py"))


def test_the_top_floor_has_only_the_rooms_and_three_files() -> None:
    floor = {path.name for path in HOUSE.iterdir()} - {"__pycache__"}
    assert floor == {*ROOMS, "__init__.py", "sampling.py", "py.typed"}


def test_the_contract_orders_every_room() -> None:
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    (down,) = [contract for contract in contracts if contract["type"] == "layers"]
    assert down["exhaustive"]
    assert sorted(down["layers"]) == sorted([*ROOMS, "sampling"])


def test_no_file_is_long() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in source_files()}
    long = {str(path.relative_to(HOUSE)) for path, count in lines.items() if count > LINES}
    assert long <= {"attention/kernels.py"}


# ---------------------------------------------------------------- the wheel

FROM_WHEEL = """
import importlib
import importlib.util
import sys
from pathlib import Path

home, *names = sys.argv[1:]
import densenb as dnb

for name in names:
    if name == "densenb.attention.kernels" and importlib.util.find_spec("triton") is None:
        continue
    module = importlib.import_module(name)
    assert Path(module.__file__).is_relative_to(home), f"{name} is from {module.__file__}"

from densenb.evaluation import measured

layout = dnb.Layout("a red cube", [dnb.Region("a red cube", dnb.box(0.1, 0.1, 0.6, 0.9))])
(image,) = dnb.generate(
    dnb.load("tiny"), layout, seeds=1, steps=1, height=128, width=128, progress=lambda *_: None
)
print(image.size, len(measured.table("measure")) > 0)
"""


def test_a_wheel_has_every_module_and_the_miniature(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    for name in ("densenb", "docs"):  # a copy, so that the checkout gets no build folder
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("densenb-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)

    files = (path.relative_to(ROOT) for path in HOUSE.rglob("*") if path.is_file())
    wanted = {path for path in files if path.parent.name != "__pycache__"}
    assert {path for path in wanted if not (site / path).is_file()} == set()

    paths = [path.relative_to(ROOT).with_suffix("") for path in source_files()]
    names = [".".join(path.parts).removesuffix(".__init__") for path in paths]
    command = [sys.executable, "-P", "-c", FROM_WHEEL, site, *names]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert result.stdout.strip() == "(128, 128) True", result.stderr


# ---------------------------------------------------------------- no machine but the reader's

# Folders of somebody's machine, and where somebody's pip looks for packages.
FOREIGN = re.compile(
    r"(?<![\w.:/~+-])/(?:home|Users|root|work|opt|srv|private)/|[A-Z]:\\+Users|"
    r"--(?:extra-)?index-url"
)


def repository_texts() -> dict[str, str]:
    """{name: text} of each text file that git tracks or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    texts = {}
    for name in names.decode().split("\0")[:-1]:
        if (ROOT / name).is_file():
            try:
                texts[name] = (ROOT / name).read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue  # a picture, weights
    return texts


def test_the_project_speaks_of_itself_alone() -> None:
    texts = repository_texts()
    assert "pyproject.toml" in texts
    found = {name: FOREIGN.search(text) for name, text in texts.items()}
    assert {name: match.group(0) for name, match in found.items() if match} == {}


@pytest.mark.parametrize(
    "text", ["see /" + "home/someone/x", "'/" + "Users/me'", "pip install --" + "index-url x"]
)
def test_a_foreign_path_would_be_seen(text: str) -> None:
    assert FOREIGN.search(text)


@pytest.mark.parametrize("text", ["https://example.org/home/", "densenb/opt/x", "a/root/b"])
def test_addresses_and_relative_paths_are_fine(text: str) -> None:
    assert not FOREIGN.search(text)
