"""Two streams on a tiny random Wan: the library's own forward is the oracle, bit for bit; only sync layers learn."""

import pytest
import torch
from diffusers import (
    WanPipeline,
)
from einops import rearrange, repeat
from refused import refused
from safetensors.torch import load_file, save_file
from tiny import wan_base, wan_vae
from torch.testing import assert_close

from fourd_minimal.pretrained.wan import TwoStreamWan
from fourd_minimal.pretrained.wan_text import ENDINGS, Contexts, contexts, embed_texts
from fourd_minimal.rectified_flow import add_noise
from fourd_minimal.systems.four_real_video import assemble, known_cells

SIZE = (32, 48)
SQUARE, OBLONG = (3, 3), (2, 4)
GRIDS = pytest.mark.parametrize("cells", [SQUARE, OBLONG], ids=["square", "oblong"])


def tiny_wan(sync: str = "soft", seed: int = 0) -> TwoStreamWan:
    return TwoStreamWan(wan_base(seed), wan_vae(), sync, name="tiny")


def asleep(model: TwoStreamWan) -> TwoStreamWan:
    """Soft layers as eq. 10 has them at the start: the identity."""
    for layer in model.sync:
        layer.layer.start_at(0.0)
    return model


def awake(model: TwoStreamWan) -> TwoStreamWan:
    """Layers that depend on everything they are given."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.trained().parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
    return model


def text_of(rows: int = 1, seed: int = 5) -> Contexts:
    generator = torch.Generator().manual_seed(seed)
    return Contexts(*(torch.randn(rows, 6, 8, generator=generator) for _ in range(2)))


def latents(views: int, times: int, b: int = 2, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy grid, noise levels, clean grid."""
    generator = torch.Generator().manual_seed(seed)
    x, clean = (torch.randn(b, views, times, 4, 4, 6, generator=generator) for _ in range(2))
    return x, torch.linspace(0.9, 0.4, b), clean


def by_the_library(model: TwoStreamWan, x, sigma, clean, text: Contexts) -> tuple[torch.Tensor, torch.Tensor]:
    """The base alone, by its own forward, on all columns and on all rows."""
    b, v, t = x.shape[:3]
    known = known_cells(v, t)
    x = torch.where(known[..., None, None, None], clean, x)
    levels = torch.where(known, 0.0, 1000 * sigma[:, None, None])

    def run(videos, levels, text, repeats):
        n = x.shape[-1] * x.shape[-2] // 4
        text = repeat(text.expand(b, -1, -1), "b l d -> (b r) l d", r=repeats)
        return model.base(videos, levels.repeat_interleave(n, 1), text, return_dict=False)[0]

    columns, rows = "b v t c h w -> (b t) c v h w", "b v t c h w -> (b v) c t h w"
    view = run(rearrange(x, columns), rearrange(levels, "b v t -> (b t) v"), text.freeze, t)
    time = run(rearrange(x, rows), rearrange(levels, "b v t -> (b v) t"), text.dynamic, v)
    return rearrange(view, f"{columns[15:]} -> b v t c h w", b=b), rearrange(time, f"{rows[15:]} -> b v t c h w", b=b)


@GRIDS
def test_without_sync_each_stream_is_the_base_bit_for_bit(cells):
    model, text = asleep(tiny_wan()), text_of(2)
    inputs = latents(*cells)
    view, time = by_the_library(model, *inputs, text)
    assert view.std() > 0.1 and not torch.equal(view, time)
    assert torch.equal(model.velocity_grid(*inputs, text), (view + time) / 2)


@GRIDS
def test_averaging_makes_the_streams_equal_at_every_layer(cells):
    seen = []
    model = tiny_wan("average")
    model.velocity_grid(*latents(*cells), text_of(), lambda *observed: seen.append(observed))
    assert [layer for layer, *_ in seen] == [0, 1]
    for _, y_view, y_time, x_view, x_time in seen:
        assert not torch.allclose(y_view, y_time, atol=1e-2)
        assert torch.equal(x_view, x_time) and torch.equal(x_view, (y_view + y_time) / 2)


@GRIDS
def test_mirrored_grids_with_mirrored_texts_and_sync_are_the_same(cells):
    """Views and times may trade places if all else does: rows are treated as columns are."""
    model, text = tiny_wan("weighted"), text_of()
    x, sigma, clean = latents(*cells)
    out = model.velocity_grid(x, sigma, clean, text)
    mirrored = model.velocity_grid(x.transpose(1, 2), sigma, clean.transpose(1, 2), Contexts(text.dynamic, text.freeze))
    assert_close(mirrored.transpose(1, 2), out, rtol=0, atol=1e-5)


def test_unknown_cells_are_ignored():
    model = awake(tiny_wan())
    x, sigma, clean = latents(*SQUARE)
    known = known_cells(*SQUARE)[..., None, None, None]
    corrupted = (torch.where(known, 9.0, x), sigma, torch.where(known, clean, 9.0))
    assert torch.equal(model.velocity_grid(*corrupted, text_of()), model.velocity_grid(x, sigma, clean, text_of()))


def test_known_cells_are_at_timestep_zero_and_the_others_at_a_thousand_sigma():
    model, asked = tiny_wan(), []
    model.base.condition_embedder.register_forward_hook(lambda module, inputs, output: asked.append(inputs[0]))
    x, sigma, clean = latents(*SQUARE, b=1)
    model.velocity_grid(x, sigma, clean, text_of())
    expected = torch.where(known_cells(*SQUARE), 0.0, 900.0)
    columns, rows = (levels.view(3, 3, 6) for levels in asked)
    assert_close(columns, expected.T[..., None].expand(-1, -1, 6))
    assert_close(rows, expected[..., None].expand(-1, -1, 6))


@GRIDS
def test_gradients_reach_the_sync_layers_and_nothing_else(cells):
    model = awake(tiny_wan()).requires_grad_(True)
    model.base.requires_grad_(False)
    x, sigma, clean = latents(*cells)
    model.loss(clean, x, sigma, text_of()).backward()
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in model.trained().parameters())
    assert all(weight.grad is None for weight in (*model.base.parameters(), *model.vae.parameters()))


def test_the_loss_is_the_velocitys_error_over_unknown_cells():
    model = awake(tiny_wan())
    eps, sigma, clean = latents(*OBLONG)
    predicted = model.velocity_grid(add_noise(clean, eps, sigma), sigma, clean, text_of())
    by_hand = sum(
        ((predicted - (eps - clean))[b, v, t] ** 2).sum() for b in range(2) for v in range(1, 2) for t in range(1, 4)
    )
    assert_close(model.loss(clean, eps, sigma, text_of()), by_hand / (2 * 3 * 4 * 4 * 6))


def test_saved_sync_layers_load_into_a_fresh_model(tmp_path):
    model = awake(tiny_wan("hard"))
    file = model.save_sync(tmp_path / "sync.safetensors", torch.float32, views=3)
    assert {name.split(".")[0] for name in load_file(file)} == {"0", "1"}  # sync layers, and nothing of the base
    fresh = tiny_wan("soft")
    assert fresh.load_sync(file) == {"views": 3}
    assert fresh.config == model.config
    x, sigma, clean = latents(*SQUARE)
    assert torch.equal(fresh.velocity_grid(x, sigma, clean, text_of()), model.velocity_grid(x, sigma, clean, text_of()))
    refused(lambda: tiny_wan(seed=1).load_sync(file), "sync.safetensors", "tiny")


def test_frames_are_encoded_one_by_one_and_normalised():
    model = tiny_wan()
    frames = torch.rand(2, 3, 3, *SIZE) * 2 - 1
    found = model.encode(frames)
    assert found.shape == (2, 3, *model.latent_shape(SIZE))
    raw = model.vae.encode(frames[1, 2][None, :, None]).latent_dist.mean[0, :, 0]
    mean, std = (torch.tensor(a)[:, None, None] for a in (model.vae.config.latents_mean, model.vae.config.latents_std))
    assert_close(found[1, 2], ((raw - mean) / std).detach())
    decoded = model.vae.decode(raw[None, :, None]).sample[0, :, 0]
    assert_close(model.decode(found)[1, 2], decoded.detach(), rtol=0, atol=1e-5)


def videos(times: int = 4, views: int = 3):
    generator = torch.Generator().manual_seed(0)
    fixed_view, freeze_time = (torch.rand(n, 3, *SIZE, generator=generator) for n in (times, views))
    freeze_time[0] = fixed_view[0]
    return fixed_view, freeze_time


def test_known_cells_come_back_exactly_and_the_rest_is_a_picture():
    model, (fixed_view, freeze_time) = tiny_wan(), videos()
    grid, again, other = (model.generate(fixed_view, freeze_time, text_of(), n_steps=2, seed=s) for s in (0, 0, 1))
    assert grid.shape == (3, 4, 3, *SIZE)
    assert torch.equal(grid[0], fixed_view) and torch.equal(grid[:, 0], freeze_time)
    assert grid.min() >= 0 and grid.max() <= 1
    assert torch.equal(grid, again) and not torch.equal(grid[1:, 1:], other[1:, 1:])


def test_known_cells_hold_still_and_one_step_is_the_velocitys():
    model, known = tiny_wan(), known_cells(3, 4)
    clean = assemble(*(model.encode(video * 2 - 1) for video in videos()))
    states = [*model.sample_grid(clean, text_of(), n_steps=1)]
    assert all(torch.equal(state[:, known], clean[:, known]) for state in states)
    v = model.velocity_grid(states[0], torch.ones(1), clean, text_of())
    assert_close(states[1][:, ~known], (states[0] - v)[:, ~known])


def test_sampling_shifts_noise_levels_as_the_base_was_trained(monkeypatch):
    model, levels = tiny_wan("weighted"), []
    inner = model.velocity_grid
    monkeypatch.setattr(
        model, "velocity_grid", lambda x, sigma, *more: levels.append(sigma.item()) or inner(x, sigma, *more)
    )
    *_, _ = model.sample_grid(latents(*SQUARE, b=1)[2], text_of(), n_steps=4)
    assert levels == pytest.approx([1, 0.9, 0.75, 0.5])  # 3 sigma / (1 + 2 sigma)


def test_guidance_goes_beyond_the_negative_prompt():
    model, text, negative = tiny_wan(), text_of(), text_of(seed=6)
    clean = latents(*SQUARE, b=1)[2]
    step = lambda *more: [*model.sample_grid(clean, text, 1, 0, *more)][1]  # noqa: E731
    plain, away = step(), [*model.sample_grid(clean, negative, 1)][1]
    assert_close(step(1.0, negative), plain, rtol=0, atol=0)
    assert_close(step(3.0, negative), away + 3 * (plain - away), rtol=0, atol=1e-4)
    refused(lambda: step(3.0), "guidance", "3.0", "negative", None)


def test_loaded_from_a_folder_as_from_the_hub(wan_folder):
    model = TwoStreamWan.from_pretrained(wan_folder, dtype=torch.float32)
    assert model.config.shift == 5.0 and model.config.base == str(wan_folder)
    assert_close(model.base.state_dict(), wan_base().state_dict(), rtol=0, atol=0)
    x, sigma, clean = latents(*SQUARE)
    assert_close(model.velocity_grid(x, sigma, clean, text_of()), tiny_wan().velocity_grid(x, sigma, clean, text_of()))
    half = TwoStreamWan.from_pretrained(wan_folder)
    assert half.base.patch_embedding.weight.dtype == torch.bfloat16 and half.vae.dtype == torch.float32
    assert half.base_fingerprint() == model.base_fingerprint()


def test_texts_are_embedded_as_the_pipeline_does(wan_folder):
    texts = contexts("ball")
    assert texts == [f"ball {ending}" for ending in ENDINGS]
    found = embed_texts(wan_folder, texts)
    expected, _ = WanPipeline.from_pretrained(wan_folder).encode_prompt(texts[1], max_sequence_length=512)
    assert found.shape == (2, 512, 8)
    assert_close(found[1:], expected.detach())
    assert not torch.allclose(found[0], found[1])


def test_what_cannot_be_loaded_is_named(tmp_path):
    refused(lambda: TwoStreamWan.from_pretrained(tmp_path), tmp_path, "safetensors")
    refused(lambda: embed_texts(tmp_path, [""]), tmp_path, "safetensors")
    wan_base().save_pretrained(tmp_path / "transformer", safe_serialization=False)  # as a pickle
    refused(lambda: TwoStreamWan.from_pretrained(tmp_path), tmp_path, "safetensors")
    wan_base().save_pretrained(tmp_path / "transformer")
    file = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = {name: value for name, value in load_file(file).items() if name != "proj_out.bias"}
    save_file(tensors, file, {"format": "pt"})
    refused(lambda: TwoStreamWan.from_pretrained(tmp_path), "transformer", 1, "proj_out.bias")
    base = wan_base()
    base.register_to_config(in_channels=36)
    refused(lambda: TwoStreamWan(base, wan_vae()), "base", 36, "VAE", 4)


def test_bad_videos_are_named():
    (a, b), model = videos(), tiny_wan()
    refused(lambda: model.generate(a[..., :40], b[..., :40], text_of()), "image_size", (32, 40))
    refused(lambda: model.generate(a[..., :32], b, text_of()), "freeze_time", (3, 3, 32, 48), "32x32")
    refused(lambda: model.generate(a[:1], b, text_of()), "fixed_view", (1, 3, 32, 48))
    refused(lambda: model.generate(a * 2 - 1, b, text_of()), "fixed_view", -1)
    refused(lambda: model.generate(a, 1 - b, text_of()), "fixed_view", "freeze_time")
