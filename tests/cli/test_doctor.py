"""The doctor: what runs here, what does not, and the fix, with or without GPU, network, access."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

import densenb
from densenb.cli import doctor, main
from densenb.models.architecture import sizes
from densenb.models.download import NoAccess, Unreachable, steps_to_access
from densenb.models.memory_plan import T4, Machine, choose

LAPTOP = Machine("a laptop", "cpu", host=8.0, disk=100.0)


@pytest.fixture
def surroundings(monkeypatch):
    """Replaces the outside world: `surroundings(machine, error, cached)`."""

    def replaced(machine, error=None, cached=False, tiny=True):
        def access(name):
            if error:
                raise error

        monkeypatch.setattr("densenb.models.memory_plan.here", lambda *_, **__: machine)
        monkeypatch.setattr("densenb.models.download.check_access", access)
        monkeypatch.setattr("densenb.models.download.is_cached", lambda name, parts=(): cached)
        if tiny:
            finding = doctor.Finding("tiny", True, "draws.")
            monkeypatch.setattr(doctor, "examine_tiny", lambda: finding)

    return replaced


def verdicts(text: str) -> dict[str, str]:
    """model -> what the last part says of it."""
    lines = " ".join(text.split("?\n")[-1].split())
    tiny, rest = lines.split("medium ", 1)
    medium, large = rest.split(" large ", 1)
    return {"tiny": tiny, "medium": medium, "large": large}


def printed(machine=None) -> str:
    return "\n".join(doctor.report(machine))


def test_without_gpu_network_or_access(surroundings):
    surroundings(LAPTOP, Unreachable("huggingface.co cannot be reached: check the network."))
    text = printed()
    assert "none that PyTorch" in text and "float16" not in text.split("Runs here?")[1]
    found = verdicts(text)
    assert found["tiny"].startswith("tiny yes")
    assert found["medium"].startswith("no") and found["large"].startswith("no")
    for model in ("medium", "large"):
        assert "Colab's free T4" in found[model] and "check the network" in found[model]
    assert max(map(len, text.splitlines())) <= 100


def test_with_a_t4_but_without_access(surroundings):
    surroundings(T4, NoAccess(f"no access yet: {steps_to_access('medium')}"))
    text = printed()
    assert "precision         float16 (bfloat16 needs 8.0)" in text
    assert "medium on Colab T4 (13.9 GiB GPU, 11.2 GiB host): fits" in text
    found = verdicts(text)["medium"]
    assert found.startswith("no") and all(step in found for step in ("(1)", "(2)", "(3)"))


def test_with_a_t4_and_access(surroundings):
    surroundings(T4)
    found = verdicts(printed())
    assert found["medium"].startswith("yes float16") and "16.3 GB to download" in found["medium"]
    assert found["large"].startswith("yes nf4") and "27.6 GB to download" in found["large"]


def test_what_was_downloaded_needs_neither_network_nor_access(surroundings):
    surroundings(T4, Unreachable("no network"), cached=True)
    found = verdicts(printed())["medium"]
    assert found.startswith("yes") and "downloaded already" in found and "network" not in found


def test_without_bitsandbytes(surroundings):
    surroundings(replace(T4, bitsandbytes=False))
    text = printed()
    assert "4-bit weights     no: pip install bitsandbytes" in text
    assert "pip install bitsandbytes" in verdicts(text)["large"]


def test_versions_name_what_is_missing(monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    found = doctor.versions()
    assert list(found) == ["python", "torch", "no-such-package"]
    assert found["no-such-package"] == "not installed" and found["torch"][0].isdigit()


def test_the_miniature_really_draws():
    assert doctor.examine_tiny().runs


def test_a_broken_miniature_is_found(monkeypatch):
    def broken(*_):
        raise ValueError("the bundled miniature is missing.")

    monkeypatch.setattr("densenb.models.load.load", broken)
    finding = doctor.examine_tiny()
    assert not finding.runs and "missing. Install densenb again" in finding.text


def test_a_finding_that_fits_says_how(surroundings):
    surroundings(T4)
    plan = choose("medium", sizes("medium"), T4, t5=False)
    finding = doctor.examine_real("medium", plan)
    assert finding.runs and "float16, no T5" in finding.text


def test_the_command_and_its_plan_for_elsewhere(surroundings, capsys):
    surroundings(LAPTOP)
    assert main(["doctor", "--t4"]) == 0
    printed = capsys.readouterr().out
    assert "Runs on Colab T4?" in printed and "a laptop" not in printed
    assert main(["doctor"]) == 0
    assert "a laptop" in capsys.readouterr().out


# ------------------------------------------------------------------------------ torch came first
@pytest.mark.parametrize("first", [True, False])
def test_a_torch_that_came_first_is_reported_with_the_fix(first, surroundings, monkeypatch):
    surroundings(LAPTOP)
    monkeypatch.setattr(densenb, "TORCH_CAME_FIRST", first)
    lines = [line for line in printed().splitlines() if "OMP_WAIT_POLICY=PASSIVE" in line]
    assert len(lines) == first
    assert all("import densenb before torch" in line and len(line) <= 100 for line in lines)


@pytest.mark.parametrize(
    ("before", "policy", "first"),
    [
        ("import sys, types; sys.modules['torch'] = types.ModuleType('torch')", None, True),
        ("import sys, types; sys.modules['torch'] = types.ModuleType('torch')", "PASSIVE", False),
        ("pass", None, False),
    ],
)
def test_importing_densenb_notes_whether_torch_came_first(before, policy, first):
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    if policy:
        environment["OMP_WAIT_POLICY"] = policy
    code = (
        f"{before}\nimport os, densenb\n"
        "print(densenb.TORCH_CAME_FIRST, os.environ['OMP_WAIT_POLICY'])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == [str(first), "PASSIVE"]
