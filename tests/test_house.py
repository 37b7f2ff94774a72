"""The rules of the house: who may import whom, that a concept stands alone, that nothing ships which should not."""

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fourd_minimal"
SOURCES = sorted(PACKAGE.rglob("*.py"))
CONCEPTS = [file for file in SOURCES if file.parent == PACKAGE and not file.name.startswith("__")]

concepts = {file.stem for file in CONCEPTS}
MAY_IMPORT = {
    **{concept: set() for concept in concepts},
    "__init__": set(),
    "data": {"data", "cameras"},
    "systems": {"systems", "data", *concepts},
    "pretrained": {"pretrained", "viewers", "training", "configs", "systems", "data", *concepts},
    "baselines": {"baselines", "systems", "data", *concepts},
    "configs": {"configs", "systems", *concepts},
    "training": {"training", "configs", "systems", "data", *concepts},
    "viewers": {"viewers", "configs", "systems", "data", *concepts},
    "cli": {"cli", "viewers", "training", "configs", "baselines", "pretrained", "systems", "data", *concepts},
    "__main__": {"cli"},
}


def each(files):
    return pytest.mark.parametrize("file", files, ids=lambda file: str(file.relative_to(ROOT)))


def imports(file):
    """Every module that the file imports anywhere, in full: `from a import b` is `a.b`."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            here = file.relative_to(ROOT).parts[: -node.level] if node.level else ()
            yield from (".".join(filter(None, (*here, node.module, alias.name))) for alias in node.names)


def run_python(*arguments, cwd):
    run = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd)
    assert run.returncode == 0, run.stdout + run.stderr


@each(CONCEPTS)
def test_a_concept_imports_only_torch_einops_and_jaxtyping(file):
    assert {module.split(".")[0] for module in imports(file)} <= {
        "torch",
        "einops",
        "jaxtyping",
        *sys.stdlib_module_names,
    }


@each(SOURCES)
def test_imports_run_one_way(file):
    inside = {module.split(".")[1] for module in imports(file) if module.startswith("fourd_minimal.")}
    assert inside - {"__version__"} <= MAY_IMPORT[file.relative_to(PACKAGE).parts[0].removesuffix(".py")]


@pytest.fixture(scope="session")
def bare_site(tmp_path_factory):
    """Site-packages with torch, einops, jaxtyping, what these three require, and nothing else."""
    site = tmp_path_factory.mktemp("site")
    expected, linked = ["torch", "einops", "jaxtyping"], set()
    while expected:
        distribution = metadata.distribution(expected.pop())
        if distribution.name not in linked:
            linked.add(distribution.name)
            requirements = map(Requirement, distribution.requires or [])
            expected += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
            for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
                if not (site / top).exists():
                    (site / top).symlink_to(distribution.locate_file(top))
    return site


def test_concepts_copied_elsewhere_run_their_examples(bare_site, tmp_path):
    for file in CONCEPTS:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    program = f"""
import sys
sys.path += [{str(tmp_path)!r}, {str(bare_site)!r}]
import doctest, importlib
ran = {{name: doctest.testmod(importlib.import_module(name)) for name in {sorted(concepts)}}}
wrong = [name for name, result in ran.items() if result.failed or not result.attempted]
sys.exit(f"examples failed of {{wrong}}" if wrong else 0)
"""
    run_python("-I", "-S", "-c", program, cwd=tmp_path)  # -I -S: no site-packages but ours


def test_nothing_happens_at_import(tmp_path):
    program = """
import os, pkgutil, random, sys, numpy, torch, fourd_minimal
sys.modules |= dict(resource=None, fcntl=None)  # Windows has neither, and nothing here needs them

def world():
    numbers = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    machine = torch.get_num_threads(), torch.get_default_device(), torch.cuda.is_initialized()
    return *numbers, *machine, torch.get_default_dtype(), torch.is_grad_enabled(), dict(os.environ), os.listdir()

before = world()
for module in pkgutil.walk_packages(fourd_minimal.__path__, "fourd_minimal."):
    if not module.name.endswith("__main__"):  # a program
        __import__(module.name)
assert world() == before
"""
    run_python("-c", program, cwd=tmp_path)


@pytest.mark.parametrize(
    "pattern",
    [
        r"^\s*(import|from) (pickle|cloudpickle|dill|joblib|shelve)\b",
        r"\btorch\.(load|save)\(",
        r"\ballow_pickle *= *True",
        r"^from __future__ import annotations",  # hides the shapes from the checker
    ],
)
def test_never_in_the_package(pattern):
    assert not [file for file in SOURCES if re.search(pattern, source(file), re.MULTILINE)]


EXCEPT = {"efficientnet_lite.py": 'torch.load(path, map_location="cpu", weights_only=True)'}
"""One call of one file: networks trained on ImageNet come from a package registry only as this pickle. It is known by
its SHA-256, read as tensors only, and kept as safetensors."""


def source(file):
    """Without what `EXCEPT` allows, once."""
    return file.read_text(encoding="utf-8").replace(EXCEPT.get(file.name, "\0"), "", 1)


def test_what_is_excepted_is_there():
    (excepted,) = (file for file in SOURCES if file.name in EXCEPT)
    assert EXCEPT[excepted.name] in excepted.read_text(encoding="utf-8")


def unnamed_encodings(file):
    """Lines that read or write text in the encoding of whoever runs them."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {alias.asname or alias.name for node in imports for alias in node.names}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        method, place = getattr(call.func, "attr", None), call.func
        while isinstance(place, ast.Attribute):
            place = place.value
        name = place.id if isinstance(place, ast.Name) else None
        if name == "open" and place is call.func:
            mode = call.args[1] if len(call.args) > 1 else keywords.get("mode")
        elif method == "open" and name not in modules:  # a path's, not tarfile's
            mode = call.args[0] if call.args else keywords.get("mode")
        else:
            words = method in ("read_text", "write_text") or getattr(keywords.get("text"), "value", None) is True
            mode = None if words else ast.Constant("b")
        if "b" not in getattr(mode, "value", "") and "encoding" not in keywords:
            yield call.lineno


@each(SOURCES)
def test_text_files_name_their_encoding(file):
    assert not [*unnamed_encodings(file)]


def test_an_encoding_that_is_not_named_is_found(tmp_path):
    bad = "open(a)\nopen(a, 'w')\np.open()\nq().open('r')\np.read_text()\np.write_text(a)\nrun(text=True)\n"
    good = "open(a, 'rb')\np.open(mode='wb')\ntarfile.open(a)\np.read_text(encoding='utf-8')\nrun(text=a)\n"
    (tmp_path / "file.py").write_text(f"{bad}import tarfile\n{good}", encoding="utf-8")
    assert [*unnamed_encodings(tmp_path / "file.py")] == [1, 2, 3, 4, 5, 6, 7]


def test_files_are_named_after_concepts():
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "tools"}
    assert not [path for path in [*PACKAGE.rglob("*"), *(ROOT / "tests").rglob("*")] if path.stem in vague]


def test_weights_are_small_and_hold_no_program():
    weights = [file for file in (PACKAGE / "weights").rglob("*") if file.is_file()]
    assert all(file.suffix == ".safetensors" for file in weights)
    assert sum(file.stat().st_size for file in weights) < 20e6
