"""The README's commands do what it says: each is run here, as written or made short, or at least read by its program.

`.ci/run` runs those that install, and the two that start the project and its tests; they are `IN_CI` here.
"""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
from pages import PAGES, ROOT, told

from fourd_minimal.cli.main import main, parse
from fourd_minimal.data.gltf import BLENDER_ENVIRONMENT
from fourd_minimal.data.people import PEOPLE_ENVIRONMENT
from fourd_minimal.data.procedural import sample_scenes
from fourd_minimal.data.video import write_video
from fourd_minimal.systems.four_real_video import FourRealVideo

README = (ROOT / "README.md").read_text()
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PROGRAM = re.compile(r"(?:fourd|python|python3|python3\.11|pip|jupyter|pytest|torchrun)(?: |$)")

IN_CI = ("cd ", "python3 -m venv ", "pip install -e ", "jupyter lab ", "pytest", "python3.11 -m venv ")
SHORT = {  # what a line of the README is given besides, so that it takes seconds; its last word on a flag counts
    "python -m fourd_minimal": "--steps 1",
    "fourd generate --fixed-view a.mp4": "",
    "fourd generate --text": "--steps 1",
    "fourd generate --fixed-view long.mp4": "--steps 1",
    "fourd reconstruct": "--steps 3 --points 20",
    "fourd multiview-video": "--steps 1",
    "fourd distil --video dancer.webm": "--preset smoke",
    "fourd distil --video creature": "--preset smoke",
    "python -c": "",
}
ONLY_READ = {  # read by its program, not run, for want of
    "fourd generate --asset": "Blender and an asset (tests/data/test_gltf.py renders some where they are)",
    "fourd train": "hours; in the preset smoke tests/cli/test_cli.py trains each",
    "fourd evaluate-4dm": "half an hour; tests/lab/test_four_dm_commands.py runs it on little",
    "fourd evaluate-distil": "minutes; tests/lab/test_distil_commands.py runs it on little",
    "fourd plan": "a minute; tests/lab/test_planner.py plans",
    "fourd curate": "assets; tests/lab/test_curate.py has some",
    "fourd render-shards": "Blender; tests/lab/test_render_shards.py has some",
    "torchrun ": "eight devices; tests/lab/test_devices.py has two processes",
    "fourd generate-wan": "published weights; tests/lab/test_wan.py has tiny ones",
    "fourd distil-pretrained": "published weights; tests/lab/test_distil_pretrained.py has tiny ones",
    "python -m fourd_minimal.lab.figures": "a minute of pictures",
    "python tests/benchmarks/": "a quiet machine",
    "python tests/run_course.py": "half an hour; as `pytest` it runs every notebook in the preset smoke",
    "python tests/course_in_browser.py": "a quarter of an hour; tests/lab/test_user_study_browser.py has one notebook",
}


def commands(file):
    """Every command that a page names: lines of its fences, and what stands between backticks and begins like one."""
    text = told(file)
    fenced = [line for kind, body in FENCE.findall(text) if kind in ("", "bash") for line in body.splitlines()]
    quoted = re.findall(r"`([^`\n]+)`", re.sub(r"(?<!\n)\n(?!\n)", " ", FENCE.sub("", text)))
    lines = [re.sub(r"  +#.*", "", line).strip() for line in [*fenced, *quoted]]
    whole = [
        line for line in lines if (PROGRAM.match(line) and " " in line) or line == "pytest" or line.startswith("cd ")
    ]
    return list(dict.fromkeys(line for line in whole if "..." not in line))


def treatment(command, among):
    """The longest beginning of the command in a table, or none."""
    return max((start for start in among if command.startswith(start)), key=len, default=None)


def fourd(command):
    """What `fourd` is given by a command line of any of the ways to call it, or None."""
    words = shlex.split(command)
    if words[0] == "fourd":
        return words[1:]
    return words[words.index("fourd_minimal") + 1 :] or ["generate"] if "fourd_minimal" in words else None


NAMED = [(file, command) for file in PAGES for command in commands(file)]


@pytest.mark.parametrize(("file", "command"), NAMED, ids=lambda value: value.name if isinstance(value, Path) else value)
def test_a_command_is_one_that_its_program_knows(file, command):
    arguments, words = fourd(command), shlex.split(command)
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


@pytest.mark.parametrize("command", commands(ROOT / "README.md"))
def test_the_readmes_commands_are_run_or_there_is_a_reason(command):
    tables = [table for table in (IN_CI, SHORT, ONLY_READ) if treatment(command, table)]
    assert tables, "tests/test_readme.py does not say how to run it"


def test_what_is_said_to_be_run_is_in_the_readme():
    named = commands(ROOT / "README.md")
    for start in (*IN_CI, *SHORT, *ONLY_READ):
        assert [command for command in named if command.startswith(start)], f"no command begins with {start}"


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
    for command in commands(ROOT / "README.md"):
        if not (start := treatment(command, SHORT)) or treatment(command, ONLY_READ):
            continue
        if start == "python -c":
            exec(shlex.split(command)[2], {})
            continue
        arguments = [*fourd(command), *shlex.split(SHORT[start])]
        if "--preset" in arguments:  # the first preset's values would be the second's defaults
            assert arguments.count("--preset") == 1
        main(arguments)
        said = capsys.readouterr().out
        assert said.strip(), command
    for written in (
        "fourd_out/grid.html",
        "my_grid/grid.html",
        "ball/grid.html",
        "around/grid.html",
        "scene/orbit.mp4",
    ):
        assert (desk / written).stat().st_size > 0, written


def test_the_readmes_python_runs(tmp_path, monkeypatch):
    """The first block beside files that were copied into an empty folder, the second with videos at hand."""
    from_file, from_package = sorted((body for kind, body in FENCE.findall(README) if kind == "python"), key=len)
    for concept in re.findall(r"^from (\w+) import", from_file, re.MULTILINE):
        (tmp_path / f"{concept}.py").write_text((ROOT / f"fourd_minimal/{concept}.py").read_text())
    monkeypatch.syspath_prepend(tmp_path)
    exec(from_file, {})
    size = FourRealVideo.from_pretrained("toy").image_size
    grid = sample_scenes(1, 4, 4, size[0], seed=3).rgb[0]
    namespace = dict(fixed_view=grid[0], freeze_time=grid[:, 0])
    exec(from_package, namespace)
    assert namespace["grid"].shape == grid.shape


def test_a_line_that_makes_an_environment_is_the_one_that_its_absence_names():
    assert BLENDER_ENVIRONMENT in README
    assert PEOPLE_ENVIRONMENT in (ROOT / "figures/results.md").read_text()
