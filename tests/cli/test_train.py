"""fourd train: every system, stage by stage, from a command to weights that load."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import tyro
from refused import refused
from safetensors.torch import load_file, save_file
from tiny import unet_2d
from torch import nn
from torch.testing import assert_close

from figures.plan import Plan
from fourd_minimal.cli.main import main, parse
from fourd_minimal.cli.train import SYSTEMS, Train
from fourd_minimal.configs.four_diffusion import FourDMPreset
from fourd_minimal.configs.presets import device
from fourd_minimal.multiview_unet import MultiviewUNetConfig
from fourd_minimal.pretrained import image_dream_unet, stable_diffusion_unet
from fourd_minimal.pretrained.encoders import Encoders
from fourd_minimal.pretrained.four_dm_base import load_unet
from fourd_minimal.systems.four_diffusion import FourDM, FourDMConfig
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.systems.text_to_video import TextToVideo
from fourd_minimal.systems.upsampler import Upsampler
from fourd_minimal.training.four_diffusion import train_four_dm
from fourd_minimal.training.loop import fresh

KINDS = dict(zip(SYSTEMS, (FourRealVideo, FourDM, Upsampler, TextToVideo), strict=True))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """For each system what training its smallest preset leaves, by words as of a shell."""
    folder = tmp_path_factory.mktemp("trained")
    for system in SYSTEMS:
        main(f"train --system {system} --preset smoke --out {folder / system} --settings.seed 3".split())
    return {system: folder / system for system in SYSTEMS}


@pytest.mark.parametrize("system", SYSTEMS)
def test_training_leaves_weights_that_know_how_they_were_made(system, folders):
    model = KINDS[system].from_pretrained(folders[system])
    assert model.config == SYSTEMS[system].presets["smoke"].model
    assert model.notes["settings"] == {"seed": 3}
    fourd, *words = shlex.split(model.notes["made_by"])
    assert fourd == "fourd" and (words[1] == "--preset") == (system == "four-real-video")
    made = parse(words)
    assert (made.system, made.settings) == (system, SYSTEMS[system].presets["smoke"])
    assert made.stage == (SYSTEMS[system].stages[-1] or "all")


@pytest.mark.parametrize(
    ("system", "stage", "start", "file"),
    [
        ("four-real-video", "joint", "four-real-video", "soft_joint"),
        ("four-diffusion", "base", "four-diffusion", "base"),
        ("four-diffusion", "motion", "four-diffusion", "motion"),
        ("upsampler", "all", "upsampler", "upsampler"),
        ("text-to-video", "all", "four-real-video", "text_to_video"),
    ],
)
def test_training_starts_from_an_earlier_run(system, stage, start, file, folders, tmp_path):
    """A few small steps away from its weights, not from random ones; and its folder is left alone."""
    earlier = folders[start]
    before = {path: path.read_bytes() for path in earlier.iterdir()}
    run = Train(system, "smoke", stage, tmp_path, earlier, SYSTEMS[system].presets["smoke"])
    run.run()
    assert {path: path.read_bytes() for path in earlier.iterdir()} == before
    notes = KINDS[system].from_pretrained(tmp_path, **dict(motion=stage == "motion") if stage == "base" else {}).notes
    assert notes["made_by"].endswith(f"--start-from {earlier}") and notes["after"]["made_by"].startswith("fourd train")
    old = load_file(earlier / f"{file if system == start else 'base'}.safetensors")
    new = load_file(tmp_path / f"{file}.safetensors")
    old = {f"dit.{name}": value for name, value in old.items()} if system != start else old
    changes = [(new[name].float() - value.float()).abs().max() for name, value in old.items()]
    assert 0 < max(changes) < 0.05
    refused(replace(run, out=earlier, start_from=earlier).run, "--start-from", "--out")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (dict(stage="motion"), ["--stage", "motion", "base, sync, joint"]),
        (dict(system="upsampler", stage="base"), ["--stage", "base"]),
        (dict(stage="base", settings="no steps"), ["--stage", "base"]),
        (dict(stage="sync", start_from=Path("toy")), ["--start-from", "joint", "sync"]),
        (dict(stage="joint"), ["base.safetensors"]),
        (dict(encoders=("a", "b")), ["--encoders", "four-diffusion"]),
        (dict(system="four-diffusion", start_from=Path("a"), base_weights=Path("b")), ["--start-from", "--base"]),
        (dict(system="four-diffusion", base_weights=Path("nowhere")), ["nowhere"]),
    ],
)  # fmt: skip
def test_flags_that_do_not_go_together(options, named, tmp_path):
    run = Train(**dict(preset="smoke", out=tmp_path / "out") | options)
    settings = SYSTEMS[run.system].presets["smoke"]
    if options.get("settings"):
        settings = replace(settings, base_steps=0)
    refused(replace(run, settings=settings).run, *named)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("system", ["four-real-video", "upsampler"])
def test_a_full_configuration_names_the_line_that_plans_it(system, monkeypatch, tmp_path, capsys):
    def stop(*_, **__):
        raise ValueError("enough seen")

    monkeypatch.setitem(SYSTEMS, system, SYSTEMS[system]._replace(train=stop))
    run = Train(system, "full", out=tmp_path, settings=SYSTEMS[system].presets["full"])
    refused(run.run, "enough seen")
    words = shlex.split(capsys.readouterr().out.partition(": ")[2])
    assert words[:3] == ["python", "-m", "figures.plan"]
    planned = tyro.cli(Plan, args=words[3:])
    assert (planned.system, planned.preset) == (system.replace("-", "_"), "full")
    assert planned.stage == (SYSTEMS[system].stages[0] or None)


def test_each_process_has_a_device_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert device() == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert device() == torch.device("cuda", 3)


SMALL = dict(head_dim=8, norm_groups=16, text_dim=12, token_dim=8, n_tokens=4, resampler_depth=1, resampler_heads=1)
UNET = MultiviewUNetConfig(widths=(16, 32), n_res_blocks=1, attention_levels=(1,), context_dim=12, **SMALL)
MODEL = FourDMConfig(UNET, image_size=16, times=3, predicts="eps", n_heads=4, norm_groups=16)
LATENT = FourDMPreset(
    MODEL,
    base_steps=0,
    motion_steps=4,
    motion_batch=2,
    warmup=1,
    parts=2,
    caption="a fox",
    sources=(("creature", 1.0),),
)
"""4DM's `full`, tiny."""


def test_a_base_can_begin_with_published_weights(tmp_path, monkeypatch):
    """Stable Diffusion's names, or ImageDream's; the rest stays as it was."""
    theirs = unet_2d(UNET.widths, (1,), (2, 4), 1, 16, use_linear_projection=True).state_dict()
    save_file(theirs, tmp_path / "stable.safetensors")
    unet, own = (fresh(lambda: FourDM(MODEL, motion=False).unet, 0) for _ in range(2))
    untrained = load_unet(unet, tmp_path / "stable.safetensors")
    assert torch.equal(unet.conv_in.weight, theirs["conv_in.weight"])
    assert {"of_camera.0.weight", "resampler.queries"} < set(untrained)
    assert all(torch.equal(unet.state_dict()[name], own.state_dict()[name]) for name in untrained)
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.ones(1)}, tmp_path / "dream.safetensors")
    monkeypatch.setattr(image_dream_unet, "load_image_dream", lambda unet, state: nn.init.ones_(unet.conv_in.bias))
    assert load_unet(unet, tmp_path / "dream.safetensors") == [] and unet.conv_in.bias.eq(1).all()
    (tmp_path / "broken.safetensors").write_bytes(b"half of it")
    for name in ("broken.safetensors", "nowhere.safetensors"):
        refused(lambda name=name: load_unet(unet, tmp_path / name), name)


def test_a_model_of_latents_is_trained_from_published_weights(encoder_folders, tmp_path, monkeypatch):
    """Interrupted and run again it is the same; weights that must be trained, and others' folders, are refused."""
    monkeypatch.setattr(image_dream_unet, "load_image_dream", lambda unet, state: nn.init.ones_(unet.out[2].bias))
    save_file({"input_blocks.0.0.weight": torch.ones(1)}, tmp_path / "dream.safetensors")
    given = dict(settings=LATENT, encoders=encoder_folders, base_weights=tmp_path / "dream.safetensors")
    run = Train("four-diffusion", "full", out=tmp_path / "whole", **given)
    run.run()
    whole = FourDM.from_pretrained(tmp_path / "whole")
    assert whole.unet.out[2].bias.eq(1).all()
    assert whole.notes["made_by"].endswith(f"--stage motion --encoders {' '.join(encoder_folders)}")
    base = FourDM.from_pretrained(tmp_path / "whole", motion=False)
    assert base.notes["made_from"] == "dream.safetensors"
    encoders = Encoders.from_pretrained(*encoder_folders, LATENT.caption)
    killed = train_four_dm("motion", LATENT, tmp_path / "killed", base, checkpoint_every=1, encoders=encoders)
    next(killed)
    killed.close()
    for _ in range(2):  # the second time there is nothing left to do
        replace(run, stage="motion", out=tmp_path / "killed").run()
        again = FourDM.from_pretrained(tmp_path / "killed")
        assert_close(again.state_dict(), whole.state_dict(), rtol=0, atol=0)
    monkeypatch.setattr(image_dream_unet, "load_image_dream", lambda unet, state: nn.init.zeros_(unet.out[2].bias))
    refused(run.run, "base.safetensors", "dream.safetensors")
    monkeypatch.setattr(image_dream_unet, "is_image_dreams", lambda state: False)
    monkeypatch.setattr(stable_diffusion_unet, "load_stable_diffusion", lambda unet, state: ["of_camera.0.weight"])
    refused(replace(run, out=tmp_path / "out").run, 1, "of_camera.0.weight")
    assert not (tmp_path / "out").exists()
