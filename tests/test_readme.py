"""The commands of all pages are read by their programs; short ones run, and so does the Python."""

import re
import runpy
import shlex
import sys
from contextlib import nullcontext, suppress
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import tyro
from pages import PAGES, ROOT, text_of

from figures.people import PEOPLE_ENVIRONMENT
from fourd_minimal.cli.main import main, parse
from fourd_minimal.data import collection
from fourd_minimal.data.procedural import sample_scenes
from fourd_minimal.data.video import write_video
from fourd_minimal.systems.four_real_video import FourRealVideo

OWN = [ROOT / "README.md", ROOT / "notebooks/own_material.md"]
PAGES = [page for page in PAGES if page.stem != "CHANGELOG"]  # which names what was
tyro_cli = tyro.cli
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PROGRAM = re.compile(r"(?:fourd|python|python3|python3\.11|pip|jupyter|pytest|torchrun)(?: |$)")

SHORT = {  # lines of the README that run here, and what they are given besides, so that they take seconds
    "python -m fourd_minimal": "--steps 1", "fourd generate --fixed-view a.mp4": "",
    "fourd generate --text": "--steps 1", "fourd generate --fixed-view long.mp4": "--steps 1",
    "fourd reconstruct": "--steps 3 --points 20", "fourd multiview-video": "--steps 1",
    "fourd distil --video dancer.webm": "--preset smoke --size 8 --settings.sampling-steps 1", "python -c": "",
}  # fmt: skip


def commands(file):
    """Every command that a page names: lines of its fences, and what stands between backticks and begins like one."""
    text = text_of(file)
    fenced = [line for kind, body in FENCE.findall(text) if kind in ("", "bash") for line in body.splitlines()]
    quoted = re.findall(r"`([^`\n]+)`", re.sub(r"(?<!\n)\n(?!\n)", " ", FENCE.sub("", text)))
    lines = [re.sub(r"  +#.*", "", line) for line in [*fenced, *quoted]]
    lines = [part.strip() for line in lines for part in line.split(" && ")]
    whole = [
        line for line in lines if (PROGRAM.match(line) and " " in line) or line == "pytest" or line.startswith("cd ")
    ]
    return list(dict.fromkeys(line for line in whole if "..." not in line))


def fourd(command):
    """What `fourd` is given by a command line of any of the ways to call it, or None."""
    words = shlex.split(command)
    if words[0] == "fourd":
        return words[1:]
    return words[words.index("fourd_minimal") + 1 :] or ["generate"] if "fourd_minimal" in words else None


@pytest.mark.parametrize("command", dict.fromkeys(command for page in PAGES for command in commands(page)))
def test_a_command_is_one_that_its_program_knows(command, monkeypatch):
    arguments, words = fourd(command), shlex.split(command)
    if words[:2] == ["python", "-m"] and words[2].startswith("figures."):
        monkeypatch.setattr(sys, "argv", words[2:] if len(words) > 3 else [words[2], "--help"])
        monkeypatch.setattr("tyro.cli", lambda *a, **k: tyro_cli(*a, **k) and SimpleNamespace(run=lambda: None))
        with suppress(SystemExit) if len(words) == 3 else nullcontext():
            runpy.run_module(words[2], run_name="__main__")
        return
    if arguments is not None and len(arguments) == 1:  # named, without what it needs
        with pytest.raises(SystemExit, match=r"^0$"):
            main([*arguments, "--help"])
    elif arguments is not None:
        parse(arguments)
    elif words[:2] == ["python", "-m"]:
        assert find_spec(words[2])
    elif words[0] == "python" and words[1] != "-c":
        assert (ROOT / words[1]).is_file()


def test_a_command_that_does_not_exist_is_not_known():
    with pytest.raises(SystemExit):
        parse(["generate", "--fixed-vue", "a.mp4"])


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with what the README's commands name."""
    folder = tmp_path_factory.mktemp("desk")
    grid = sample_scenes(1, views=5, times=6, size=32, seed=3).rgb[0]
    for name, frames in {"a": grid[0], "b": grid[:, 0], "long": grid[0], "orbit": grid[:, 0]}.items():
        write_video(frames, folder / f"{name}.mp4", lossless=True)
    creature = sample_scenes(1, 1, 8, 64, 7, "creature", elevation_deg=20.0)
    write_video(creature.rgb[0, 0], folder / "dancer.webm", alpha=creature.alpha[0, 0])
    return folder


def test_the_readmes_commands_run(desk, monkeypatch, capsys):
    """In their order: one reads what another wrote."""
    monkeypatch.chdir(desk)
    named = [command for page in OWN for command in commands(page)]
    lines = {line: more for line in named for start, more in SHORT.items() if f"{line} ".startswith(f"{start} ")}
    assert len(lines) >= len(SHORT)
    for command, more in lines.items():
        if command.startswith("python -c"):
            exec(shlex.split(command)[2], {})
        else:
            main([*fourd(command), *shlex.split(more)])
            assert capsys.readouterr().out.strip(), command
    for written in ("fourd_out/grid", "my_grid/grid", "ball/grid", "around/grid", "scene/grid"):
        assert (desk / f"{written}.html").stat().st_size > 0


def test_the_readmes_python_runs(tmp_path, monkeypatch):
    """One block beside files that were copied into an empty folder, one with two videos, one where characters are."""
    blocks = [body for page in OWN for kind, body in FENCE.findall(text_of(page)) if kind == "python"]
    (from_package,) = (body for body in blocks if "from_pretrained" in body)
    (characters,) = (body for body in blocks if "sample_characters" in body)
    (from_file,) = (body for body in blocks if body not in (from_package, characters))
    for concept in re.findall(r"^from (\w+) import", from_file, re.MULTILINE):
        (tmp_path / f"{concept}.py").write_text((ROOT / f"fourd_minimal/{concept}.py").read_text())
    monkeypatch.syspath_prepend(tmp_path)
    exec(from_file, {})
    size = FourRealVideo.from_pretrained("toy").image_size
    grid = sample_scenes(1, 4, 4, size[0], seed=3).rgb[0]
    namespace = dict(fixed_view=grid[0], freeze_time=grid[:, 0])
    exec(from_package, namespace)
    assert namespace["grid"].shape == grid.shape
    if collection.BESIDE.is_dir():
        exec(characters, namespace)
        assert namespace["record"].rgb.shape == (4, 8, 8, 3, 64, 64) and namespace["record"].flow is not None


def test_a_line_that_makes_an_environment_is_the_one_that_its_absence_names():
    assert PEOPLE_ENVIRONMENT in (ROOT / "figures/results.md").read_text()
