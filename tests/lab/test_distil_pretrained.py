"""fourd distil-pretrained: from a caption to pictures of a scene, with a tiny random Stable Diffusion in a folder."""

from dataclasses import replace

import diffusers
import pytest
import torch
import transformers

from fourd_minimal.data.video import count_frames, read_video
from fourd_minimal.lab import distil_pretrained
from fourd_minimal.lab.distil_pretrained import CAPTION, DistilPretrained
from fourd_minimal.systems.dynamic_nerf import DynamicNeRFConfig
from fourd_minimal.systems.film_to_scene import optimise_steps

SMALL = replace(
    CAPTION,
    nerf=DynamicNeRFConfig(n_levels=2, log2_table_size=8, base_resolution=4, width=8, n_samples=8, occupancy_side=6),
    sizes=((0, 8),),
    n_steps=2,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stable")
    torch.manual_seed(0)
    diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=12,
        norm_num_groups=8,
    ).save_pretrained(folder / "unet")
    diffusers.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    ).save_pretrained(folder / "vae")
    diffusers.PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").save_pretrained(
        folder / "scheduler"
    )
    pieces = [*"abcdefghijklmnopqrstuvwxyz,", *(f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz,")]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    sizes = dict(hidden_size=12, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    ends = dict(bos_token_id=54, eos_token_id=55, pad_token_id=55)
    config = transformers.CLIPTextConfig(vocab_size=56, max_position_embeddings=20, **ends, **sizes)
    transformers.CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    transformers.CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder / "tokenizer")
    diffusers.MotionAdapter(
        block_out_channels=(16, 32), motion_layers_per_block=1, motion_num_attention_heads=2, motion_norm_num_groups=8
    ).save_pretrained(folder / "motion")
    return folder


def command(folder, tmp_path, **options):
    given = dict(prompt="a fox", model=str(folder), motion=str(folder / "motion"), times=2, size=12, settings=SMALL)
    return DistilPretrained(**given | dict(out=tmp_path / "out") | options)


@pytest.mark.parametrize("moves", [True, False])
def test_a_caption_becomes_pictures_of_a_scene(moves, folder, tmp_path, capsys):
    command(folder, tmp_path, **({} if moves else dict(motion=None, joint=False))).run()
    said, out = capsys.readouterr().out, tmp_path / "out"
    assert "2 frames x 4 views of 16 pixels" in said and "orbit.mp4" in said
    assert count_frames(out / "orbit.mp4") == count_frames(out / "freeze.mp4") == 48
    assert read_video(out / "freeze.mp4").rgb.shape[-2:] == (12, 12)
    assert (out / "grid.html").exists() and len(list((out / "frames").iterdir())) == 8


def test_half_precision_is_the_u_nets_alone(folder, tmp_path):
    guide = command(folder, tmp_path, precision="bf16", image_size=32)._guide()
    assert guide.unet.dtype == torch.bfloat16 and guide.vae.dtype == torch.float32 and guide.config.image_size == 32
    x = torch.rand(2, 4, 3, 32, 32).requires_grad_()
    guide.look(x, torch.arange(4) * 90.0, torch.tensor(500)).loss.backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() > 0


def test_a_stopped_optimisation_goes_on(folder, tmp_path, monkeypatch):
    scenes, numbers = [], []
    monkeypatch.setattr(distil_pretrained, "write_turns", lambda scene, *_: scenes.append(scene))
    settings = replace(SMALL, n_steps=4)
    command(folder, tmp_path, settings=settings).run()

    def until_interrupted(*args, **options):
        for step in optimise_steps(*args, checkpoint_every=2, **options):
            numbers.append(step.number)
            if numbers == [1, 2, 3]:
                raise KeyboardInterrupt
            yield step

    monkeypatch.setattr(distil_pretrained, "optimise_steps", until_interrupted)
    given = dict(settings=settings, checkpoint=tmp_path / "scene.safetensors", out=tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        command(folder, tmp_path, **given).run()
    assert not (tmp_path / "stopped").exists()
    command(folder, tmp_path, **given).run()
    assert numbers == [1, 2, 3, 3, 4]
    assert torch.equal(scenes[0].space.table, scenes[1].space.table)


def test_bad_input_is_one_sentence(folder, tmp_path):
    for wrong, message in (
        (dict(prompt=" "), "--prompt is missing; a caption"),
        (dict(size=0), "--size is 0; 1 to 2048"),
        (dict(settings=replace(SMALL, n_steps=0)), "--settings.n-steps is 0; at least 1"),
        (dict(times=33), "times is 33; the motion modules know positions for 32 frames"),
        (dict(model=str(tmp_path)), "the unet of .* cannot be loaded"),
        (dict(settings=replace(SMALL, anchor=1.0)), "anchor is 1.0, and wants videos"),
    ):
        with pytest.raises(ValueError, match=message):
            command(folder, tmp_path, **wrong).run()
    assert not (tmp_path / "out").exists()
