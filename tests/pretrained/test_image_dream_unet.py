"""ImageDream's weights, against its network stated again in its own names; the names against diffusers' converter."""

from collections import OrderedDict
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from refused import refused
from tiny import shaken, unet_2d
from torch import nn
from torch.testing import assert_close

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.multiview_unet import MultiviewUNet, MultiviewUNetConfig
from fourd_minimal.pretrained.image_dream_unet import is_image_dreams, load_image_dream
from fourd_minimal.systems.four_diffusion import add_motion_modules

SMALL = dict(head_dim=8, norm_groups=8, text_dim=12, token_dim=10, n_tokens=3, resampler_depth=2, resampler_heads=1)
CONFIG = MultiviewUNetConfig(widths=(16, 32, 48), n_res_blocks=2, attention_levels=(0, 1), context_dim=12, **SMALL)
VIEWS = 4


class Block(nn.Module):
    """A residual block, as ImageDream's code names its parts."""

    def __init__(self, c_in, c_out, c_embedding):
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(8, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(c_embedding, c_out))
        last = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.out_layers = nn.Sequential(nn.GroupNorm(8, c_out), nn.SiLU(), nn.Dropout(0.0), last)
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x, embedding, *_):
        return self.skip_connection(x) + self.out_layers(
            self.in_layers(x) + self.emb_layers(embedding)[..., None, None]
        )


class Looking(nn.Module):
    """Attention by plain products; image tokens, the last of the context, have own keys and values."""

    def __init__(self, dim, context, image_tokens=0):
        super().__init__()
        self.image_tokens = image_tokens
        if image_tokens:
            self.to_k_ip, self.to_v_ip = nn.Linear(context, dim, bias=False), nn.Linear(context, dim, bias=False)
        self.to_q, self.to_k, self.to_v = (nn.Linear(c, dim, bias=False) for c in (dim, context, context))
        self.to_out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(0.0))

    def read(self, q, k, v):
        q, k, v = (a.unflatten(-1, (-1, CONFIG.head_dim)).movedim(2, 1) for a in (q, k, v))
        weights = (q @ k.transpose(-1, -2) / CONFIG.head_dim**0.5).softmax(-1)
        return (weights @ v).movedim(1, 2).flatten(-2)

    def forward(self, x, context):
        words = context[:, : context.shape[1] - self.image_tokens]
        found = self.read(self.to_q(x), self.to_k(words), self.to_v(words))
        if self.image_tokens:
            seen = context[:, -self.image_tokens :]
            found = found + self.read(self.to_q(x), self.to_k_ip(seen), self.to_v_ip(seen))
        return self.to_out(found)


class Gated(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.proj = nn.Linear(dim, 8 * dim)

    def forward(self, x):
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)


class Layer(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.attn1, self.attn2 = Looking(dim, dim), Looking(dim, CONFIG.text_dim, CONFIG.n_tokens)
        self.ff = nn.Module()
        self.ff.net = nn.Sequential(Gated(dim), nn.Dropout(0.0), nn.Linear(4 * dim, dim))
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))

    def forward(self, x, context, slots):
        together = self.norm1(x).reshape(len(x) // slots, -1, x.shape[-1])
        x = x + self.attn1(together, together).reshape(x.shape)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff.net(self.norm3(x))


class Transformer(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm, self.proj_in = nn.GroupNorm(8, dim, eps=1e-6), nn.Linear(dim, dim)
        self.transformer_blocks, self.proj_out = nn.ModuleList([Layer(dim)]), nn.Linear(dim, dim)

    def forward(self, x, embedding, context, slots):
        y = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        y = self.proj_out(self.transformer_blocks[0](y, context, slots))
        return x + y.transpose(1, 2).reshape(x.shape)


class First(nn.Conv2d):
    def forward(self, x, *_):
        return super().forward(x)


class Resized(nn.Sequential):
    """What takes nothing but the picture; its parts have ImageDream's names."""

    def forward(self, x, *_):
        return super().forward(x)


def down(dim):
    return Resized(OrderedDict(op=nn.Conv2d(dim, dim, 3, stride=2, padding=1)))


def up(dim):
    return Resized(OrderedDict(twice=nn.Upsample(scale_factor=2), conv=nn.Conv2d(dim, dim, 3, padding=1)))


class Perceiver(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_q, self.to_kv = nn.Linear(dim, 64, bias=False), nn.Linear(dim, 128, bias=False)
        self.to_out = nn.Linear(64, dim, bias=False)

    def forward(self, x, latents):
        x, latents = self.norm1(x), self.norm2(latents)
        k, v = self.to_kv(torch.cat([x, latents], 1)).chunk(2, -1)
        return self.to_out((self.to_q(latents) @ k.transpose(1, 2) / 8).softmax(-1) @ v)


class Few(nn.Module):
    """Image tokens, resampled."""

    def __init__(self):
        super().__init__()
        dim = CONFIG.context_dim
        self.latents = nn.Parameter(torch.empty(1, CONFIG.n_tokens, dim))
        self.proj_in, self.proj_out = nn.Linear(CONFIG.token_dim, dim), nn.Linear(dim, dim)
        self.norm_out, self.layers = nn.LayerNorm(dim), nn.ModuleList()
        for _ in range(CONFIG.resampler_depth):
            wide, narrow = nn.Linear(dim, 4 * dim, bias=False), nn.Linear(4 * dim, dim, bias=False)
            forward = nn.Sequential(nn.LayerNorm(dim), wide, nn.GELU(), narrow)
            self.layers.append(nn.ModuleList([Perceiver(dim), forward]))

    def forward(self, x):
        x, latents = self.proj_in(x), self.latents.expand(len(x), -1, -1)
        for look, forward in self.layers:
            latents = look(x, latents) + latents
            latents = forward(latents) + latents
        return self.norm_out(self.proj_out(latents))


class ImageDream(nn.Module):
    """Inputs are of all slots, the reference's last; cameras are rows of 16, z up."""

    def __init__(self):
        super().__init__()
        c, widths = CONFIG, CONFIG.widths
        first, wide = widths[0], 4 * widths[0]
        self.time_embed = nn.Sequential(nn.Linear(first, wide), nn.SiLU(), nn.Linear(wide, wide))
        self.camera_embed = nn.Sequential(nn.Linear(16, wide), nn.SiLU(), nn.Linear(wide, wide))
        self.image_embed = Few()
        self.input_blocks = nn.ModuleList([nn.ModuleList([First(4, first, 3, padding=1)])])
        skips, now = [first], first
        for level, width in enumerate(widths):
            for _ in range(c.n_res_blocks):
                attention = [Transformer(width)] if level in c.attention_levels else []
                self.input_blocks.append(nn.ModuleList([Block(now, width, wide), *attention]))
                skips.append(now := width)
            if level + 1 < len(widths):
                self.input_blocks.append(nn.ModuleList([down(width)]))
                skips.append(width)
        self.middle_block = nn.ModuleList([Block(now, now, wide), Transformer(now), Block(now, now, wide)])
        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for i in range(c.n_res_blocks + 1):
                parts = [Block(now + skips.pop(), width, wide)]
                parts += [Transformer(width)] if level in c.attention_levels else []
                parts += [up(width)] if level and i == c.n_res_blocks else []
                self.output_blocks.append(nn.ModuleList(parts))
                now = width
        self.out = nn.Sequential(nn.GroupNorm(8, now), nn.SiLU(), nn.Conv2d(now, 4, 3, padding=1))

    def forward(self, x, t, camera, text, tokens, slots):
        half = CONFIG.widths[0] // 2
        angle = t[:, None] / 10_000 ** (torch.arange(half) / half)
        embedding = self.time_embed(torch.cat([angle.cos(), angle.sin()], 1)) + self.camera_embed(camera)
        told, skips = (embedding, torch.cat([text, self.image_embed(tokens)], 1), slots), []
        for parts in self.input_blocks:
            for part in parts:
                x = part(x, *told)
            skips.append(x)
        for part in self.middle_block:
            x = part(x, *told)
        for parts in self.output_blocks:
            x = torch.cat([x, skips.pop()], 1)
            for part in parts:
                x = part(x, *told)
        return self.out(x)


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    return shaken(ImageDream().requires_grad_(False), 0.25)


def ours(state):
    model = MultiviewUNet(CONFIG).requires_grad_(False)
    load_image_dream(model, state)
    return model


def test_outputs_are_image_dreams(theirs):
    """Cameras as ImageDream makes them for itself: azimuth from -y, z up, on the unit sphere."""
    generator = torch.Generator().manual_seed(1)
    x, reference = torch.randn(2, VIEWS, 4, 8, 8, generator=generator), torch.randn(2, 4, 8, 8, generator=generator)
    text, tokens = torch.randn(2, 5, 12, generator=generator), torch.randn(2, 7, 10, generator=generator)
    t = torch.tensor([7, 900])
    azimuth = torch.tensor([[0.0, 90.0, 180.0, 270.0], [20.0, 130.0, 200.0, 340.0]])
    a, e = torch.deg2rad(azimuth), torch.deg2rad(torch.tensor(15.0))
    place = torch.stack([e.cos() * a.sin(), -e.cos() * a.cos(), e.sin().expand_as(a)], -1)
    right = F.normalize(torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]).expand_as(place), place), dim=-1)
    columns = torch.stack([right, torch.linalg.cross(place, right), place, place], -1)
    last = torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(*a.shape, 1, 4)
    camera = F.pad(torch.cat([columns, last], -2).flatten(2), (0, 0, 0, 1))  # none for the reference
    n = VIEWS + 1
    slots = torch.cat([x, reference[:, None]], 1).flatten(0, 1)
    each = (a.repeat_interleave(n, 0) for a in (text, tokens))
    expected = theirs(slots, t.repeat_interleave(n), camera.flatten(0, 1), *each, n).unflatten(0, (2, n))[:, :VIEWS]
    found = ours(theirs.state_dict())(x, t, circular_trajectory(azimuth, 15.0, 3.4), reference, tokens, text)
    assert_close(found, expected, atol=2e-4, rtol=2e-4)
    elsewhere = ours(theirs.state_dict())(x, t, circular_trajectory(azimuth + 30, 15.0), reference, tokens, text)
    assert (elsewhere - found).abs().max() > 0.01


def test_the_names_are_those_that_diffusers_converts(theirs):
    """Without ImageDream's own, they are an original Stable Diffusion's."""
    plain = {
        f"model.diffusion_model.{name}": value
        for name, value in theirs.state_dict().items()
        if not name.startswith(("camera_embed", "image_embed")) and "_ip." not in name
    }
    model = unet_2d(CONFIG.widths, CONFIG.attention_levels, heads=(2, 4, 6), use_linear_projection=True)
    model.load_state_dict(convert_ldm_unet_checkpoint(dict(plain), dict(model.config)))
    x, text, t = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 12), torch.tensor([40])
    still = ImageDream().requires_grad_(False)
    still.load_state_dict(theirs.state_dict())
    for name, parameter in still.named_parameters():
        if name.startswith("camera_embed") or "to_v_ip" in name:
            parameter.zero_()
    alone = still(x, t, torch.zeros(1, 16), text, torch.randn(1, 7, 10), 1)
    assert_close(alone, model(x, t, encoder_hidden_states=text).sample, atol=1e-4, rtol=1e-4)


def test_whole_checkpoints_and_motion_modules(theirs):
    """In front of the names what the checkpoint has, beside them what is no U-Net; in 16 bits."""
    state = theirs.state_dict()
    whole = {f"model.diffusion_model.{name}": value.half() for name, value in state.items()}
    whole |= {"betas": torch.ones(3), "vae_model.encoder.conv_in.weight": torch.ones(2)}
    assert is_image_dreams(state) and is_image_dreams(whole) and not is_image_dreams({"conv_in.weight": torch.ones(1)})
    moving = add_motion_modules(MultiviewUNet(CONFIG), n_heads=2, max_frames=4, norm_groups=8)
    before = {name: value.clone() for name, value in moving.temporal.state_dict().items()}
    load_image_dream(moving, whole)
    plain = ours(state).state_dict()
    for name, value in moving.state_dict().items():
        kept = name.removeprefix("temporal.")
        assert_close(value, before[kept] if kept != name else plain[name].half().float(), atol=1e-3, rtol=1e-3)


def test_what_does_not_fit_is_named(theirs):
    state = theirs.state_dict()
    name = "middle_block.1.transformer_blocks.0.attn2.to_v_ip.weight"
    deeper = {n.replace("input_blocks.8", "input_blocks.9"): v for n, v in state.items()}
    for wrong, *said in (
        ({n: v for n, v in state.items() if not n.startswith("camera_embed")}, 4, "of_camera.0.bias"),
        ({n: v for n, v in state.items() if n != name}, 1, "middle.1.cross_attention.to_kv.1.weight"),
        (deeper, "ImageDream"),
        (state | {"label_emb.weight": torch.ones(1)}, "label_emb.weight"),
        (state | {"input_blocks.1.0.thing.weight": torch.ones(1)}, "input_blocks.1.0.thing.weight"),
        (state | {"image_embed.layers.0.2.weight": torch.ones(1)}, "image_embed.layers.0.2.weight"),
    ):
        refused(partial(load_image_dream, MultiviewUNet(CONFIG), wrong), "state", *said)
    wide = MultiviewUNet(replace(CONFIG, concat=True))
    refused(lambda: load_image_dream(wide, state), "conv_in.weight", (16, 4, 3, 3))
