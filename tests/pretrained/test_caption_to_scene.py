"""fourd distil-pretrained: from a caption to pictures of a scene, with a tiny random Stable Diffusion in a folder."""

import re
from dataclasses import replace

import pytest
import torch
from refused import refused, says

from fourd_minimal.data.video import count_frames, read_video
from fourd_minimal.pretrained.caption_to_scene import CAPTION, DistilPretrained
from fourd_minimal.systems.dynamic_nerf import DynamicNeRFConfig

SMALL = replace(
    CAPTION,
    nerf=DynamicNeRFConfig(n_levels=2, log2_table_size=8, base_resolution=4, width=8, n_samples=8, occupancy_side=6),
    sizes=((0, 8),),
    n_steps=2,
)


def command(stable_folder, tmp_path, **options):
    given = dict(
        prompt="a fox", model=str(stable_folder), motion=str(stable_folder / "motion"), times=2, size=12, settings=SMALL
    )
    return DistilPretrained(**given | dict(out=tmp_path / "out") | options)


@pytest.mark.parametrize("moves", [True, False])
def test_a_caption_becomes_pictures_of_a_scene(moves, stable_folder, tmp_path, capsys):
    command(stable_folder, tmp_path, **({} if moves else dict(motion=None, joint=False))).run()
    said, out = capsys.readouterr().out, tmp_path / "out"
    assert re.search(says(2, 4, 16), said) and "orbit.mp4" in said
    assert count_frames(out / "orbit.mp4") == count_frames(out / "freeze.mp4") == 48
    assert read_video(out / "freeze.mp4").rgb.shape[-2:] == (12, 12)
    assert (out / "grid.html").exists() and len(list((out / "frames").iterdir())) == 8


def test_half_precision_is_the_u_nets_alone(stable_folder, tmp_path):
    guide = command(stable_folder, tmp_path, precision="bf16", image_size=32)._guide()
    assert guide.unet.dtype == torch.bfloat16 and guide.vae.dtype == torch.float32 and guide.config.image_size == 32
    x = torch.rand(2, 4, 3, 32, 32).requires_grad_()
    guide.distill(x, torch.arange(4) * 90.0, torch.tensor(500)).loss.backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() > 0


def test_bad_input_is_named(stable_folder, tmp_path):
    for wrong, *said in (
        (dict(prompt=" "), "--prompt"),
        (dict(size=0), "--size", 0),
        (dict(settings=replace(SMALL, n_steps=0)), "--settings.n-steps", 0),
        (dict(times=33), "times", 33),
        (dict(model=str(tmp_path)), "unet", tmp_path),
        (dict(settings=replace(SMALL, anchor=1.0)), "anchor", "1.0"),
    ):
        refused(command(stable_folder, tmp_path, **wrong).run, *said)
    assert not (tmp_path / "out").exists()
