"""The light half of the command line: what it answers without a model, and that the table says what is there."""

import ast
import subprocess
import sys
from dataclasses import fields
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from fourd_minimal import __version__
from fourd_minimal.cli.commands import COMMANDS, GROUPS, RENAMED
from fourd_minimal.cli.main import load, main, parse
from fourd_minimal.configs.four_real_video import PRESETS
from fourd_minimal.configs.upsampler import UPSAMPLERS

ROOT = Path(__file__).parents[2]
LIGHT = """
import sys
from fourd_minimal.cli.main import main
try:
    main(sys.argv[1:])
finally:
    heavy = {"torch", "numpy", "tyro"} & sys.modules.keys()
    assert not heavy, heavy
"""


def in_a_process(*arguments):
    """Exit status, output, errors, and CPU seconds of `fourd` in a Python of its own."""
    resource = pytest.importorskip("resource", reason="this system does not count a process's seconds")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run([sys.executable, "-c", LIGHT, *arguments], capture_output=True, encoding="utf-8")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return run.returncode, run.stdout, run.stderr, seconds


@pytest.mark.parametrize(
    ("arguments", "status", "answers"),
    [
        (["-h"], 0, ["generate", "train"]),
        (["--help"], 0, ["generate", "train"]),
        (["--version"], 0, [__version__]),
        (["generatee"], 2, ["generatee", "generate"]),
        (["xyzzy"], 2, ["xyzzy", "fourd -h"]),
        (["generate", "--fixed-view", "nowhere.mp4", "--freeze-time", "b.mp4"], 2, ["--fixed-view", "nowhere.mp4"]),
        (["generate", "--fixed_view=nowhere.mp4"], 2, ["--fixed-view", "nowhere.mp4"]),
        (["generate", "--weights", "nowhere"], 2, ["--weights", "nowhere"]),
        (["train", "--preset", "cpu", "--settings.shards", "nowhere"], 2, ["--settings.shards", "nowhere"]),
        (["curate", "--assets", __file__, "nowhere.glb"], 2, ["--assets", "nowhere.glb"]),
        (["evaluate", "--scenes", "8"], 2, ["python -m figures.four_real_video --scenes 8"]),
        (["surround", "--video", "a b.mp4"], 2, ["fourd multiview-video --video 'a b.mp4'"]),
        (["train-4dm", "--preset", "cpu"], 2, ["fourd train --system four-diffusion --preset cpu"]),
    ],
)
def test_what_needs_no_model_is_answered_without_one(arguments, status, answers):
    code, said, wrong, seconds = in_a_process(*arguments)
    assert code == status and all(answer in (said or wrong) for answer in answers)
    assert not status or (wrong.startswith("fourd: ") and wrong.count("\n") == 1)
    assert seconds < 1.0


def test_help_groups_every_command_in_whole_sentences(capsys):
    main(["-h"])
    said = " ".join(capsys.readouterr().out.split())
    places = [said.index(title) for title in GROUPS.values()]
    assert places == sorted(places)
    for name, command in COMMANDS.items():
        assert command.group in GROUPS and f"{name} {command.help}" in said
        assert command.help[0].isupper() or command.help[0].isdigit()
        assert command.help.endswith(".")


def test_the_table_says_what_the_commands_are():
    """Every flag that the table has checked is one, and every flag that is a path is checked or written to."""
    for name, command in COMMANDS.items():
        kind = load(command.runs)
        hints = get_type_hints(kind)
        names = {field.name: field.name.replace("_", "-") for field in fields(kind)}
        for field, hint in get_type_hints(kind, include_extras=True).items():  # a flag may have a name of its own
            own = [note.name for note in getattr(hint, "__metadata__", ()) if getattr(note, "name", None)]
            names[field] = own[0] if own else names.get(field, field)
        flags = {*names.values()}
        paths = {flag for field, flag in names.items() if Path in (hints[field], *get_args(hints[field]))}
        if command.presets:
            presets = load(command.presets)
            systems = presets.values() if name == "train" else [presets]
            assert all(set(each) >= set(PRESETS) for each in systems), name
            flags |= {f"settings.{field.name}" for each in systems for field in fields(each["cpu"])}
        elif "settings" in hints:
            flags |= {f"settings.{field.name}" for field in fields(hints["settings"])}
        reads = set(command.reads.split())
        assert reads <= flags, name
        assert paths - {"out", "checkpoint", "runs"} <= reads, name
    for old, new in RENAMED.items():
        program, name = new.removeprefix("python -m ").split()[0], new.split()[1]
        name = name if program == "fourd" else program
        assert old not in COMMANDS
        assert name in COMMANDS if program == "fourd" else (ROOT / f"{name.replace('.', '/')}.py").is_file()


def test_a_preset_is_the_default_of_its_settings(monkeypatch):
    assert parse(["train", "--preset", "gpu"]).settings == PRESETS["gpu"]
    assert parse(["train", "--preset=gpu"]).settings == PRESETS["gpu"]
    changed = parse(["train", "--preset", "gpu", "--settings.sync-batch", "8"])
    assert changed.settings.sync_batch == 8 and changed.settings.base_batch == PRESETS["gpu"].base_batch
    assert parse(["train", "--system=upsampler", "--preset", "smoke"]).settings == UPSAMPLERS["smoke"]
    assert parse(["train", "--system", "text-to-video", "--settings.lr", "1"]).settings.lr == 1
    monkeypatch.setenv("FOURD_PRESET", "smoke")
    assert parse(["train"]).settings == PRESETS["smoke"]
    with pytest.raises(SystemExit, match=r"^2$"):
        parse(["train", "--preset", "huge"])
    with pytest.raises(SystemExit, match=r"^2$"):
        parse(["train", "--system", "huge"])


def test_without_a_command_it_is_the_main_job(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    main([])
    assert "4 views x 4 times" in capsys.readouterr().out and (tmp_path / "fourd_out/grid.html").exists()


def test_a_stop_during_imports_is_no_traceback(tmp_path):
    """Ctrl-C while a command's modules are imported; here one of them raises what the signal would."""
    program = """
import sys
from fourd_minimal.cli.main import main
class Stop:
    def find_spec(self, name, *_):
        if name == "torch":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Stop())
main(["generate"])
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", cwd=tmp_path)
    assert run.returncode == 130 and "Traceback" not in run.stderr and "fourd: stopped" in run.stderr


def test_a_terminal_of_few_letters_is_no_error(monkeypatch):
    screen = TextIOWrapper(BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", screen)
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["generate", "-h"])
    screen.flush()
    assert b"--fixed-view" in screen.buffer.getvalue()


def test_the_main_job_runs_where_there_is_neither_resource_nor_fcntl(tmp_path):
    """As on Windows; tests/test_house.py imports the whole package so."""
    program = """
import sys
sys.modules |= dict(resource=None, fcntl=None)
from fourd_minimal.cli.main import main
main(["generate", "--steps", "1"])
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "fourd_out/grid.html").exists()


def imported(module, seen):
    """The modules that importing one imports, as the heads of our files say."""
    if module in seen:
        return
    seen.add(module)
    file = Path(*module.split(".")).with_suffix(".py")
    if not (ROOT / file).is_file():
        return
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            seen.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                imported(name, seen)


@pytest.mark.parametrize(
    ("command", "never"),
    [
        ("generate", "training data.gltf anywidget pretrained figures"),
        ("train", "viewers pretrained torch.distributed.fsdp figures"),
        ("train-wan", "viewers figures cli"),
        ("distil-pretrained", "training pretrained.encoders figures cli"),
        ("multiview-video", "training figures"),
    ],
)
def test_a_command_imports_its_own_modules_only(command, never):
    seen = set()
    imported("fourd_minimal." + COMMANDS[command].runs.partition(":")[0], seen)
    for name in never.split():
        assert not [m for m in seen if f"{m}.".startswith((f"{name}.", f"fourd_minimal.{name}."))], name
