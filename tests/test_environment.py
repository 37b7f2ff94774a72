"""environment.yml pins everything that pyproject.toml asks for, to versions tested together."""

from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

tomllib = pytest.importorskip("tomllib", reason="Python reads pyproject.toml from 3.11 on")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
*CONDA, PIP = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]


def by_name(requirements):
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, requirements)}


PINS = by_name(PIP["pip"])
WANTED = by_name(sum(PROJECT["optional-dependencies"].values(), PROJECT["dependencies"]))
del WANTED[PROJECT["name"]]  # one extra holds another


def pinned(name):
    (specifier,) = PINS[name].specifier
    assert specifier.operator == "=="
    return specifier.version


def test_conda_brings_only_what_pip_cannot():
    python, *others = CONDA
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python="))
    assert others == ["pip", "ffmpeg"]


@pytest.mark.parametrize("name", sorted(WANTED))
def test_a_pin_satisfies_what_the_project_wants(name):
    assert WANTED[name].specifier.contains(pinned(name))


@pytest.mark.parametrize("name", sorted(PINS))
def test_a_pin_is_what_was_tested(name):
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed here")
    if not PINS[name].specifier.contains(installed):
        pytest.skip(f"{name} {installed} is installed here, not from environment.yml, which pins {pinned(name)}")
