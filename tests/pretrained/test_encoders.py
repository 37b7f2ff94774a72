"""The encoders, tiny and random, saved and loaded as published ones are."""

import sys
from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from PIL import Image
from refused import refused
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from fourd_minimal.pretrained.encoders import Encoders
from fourd_minimal.pretrained.stable_guide import read_captions


@pytest.fixture(scope="module")
def encoders(encoder_folders):
    return Encoders.from_pretrained(*encoder_folders, "a fox", at_once=3)


def frames(*shape, side=16, seed=1):
    return 2 * torch.rand(*shape, 3, side, side, generator=torch.Generator().manual_seed(seed)) - 1


def test_latents_are_draws_from_the_autoencoder(encoder_folders, encoders):
    vae = diffusers.AutoencoderKL.from_pretrained(encoder_folders[0], subfolder="vae")
    given = frames(2, 4)
    noise = torch.randn(2, 4, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    drawn = encoders.latents(given, noise)
    said = vae.encode(given.flatten(0, 1)).latent_dist
    torch.manual_seed(3)
    theirs = said.sample()
    torch.manual_seed(3)
    same = torch.randn(said.mean.shape).unflatten(0, (2, 4))
    assert_close(encoders.latents(given, same), 0.3 * theirs.unflatten(0, (2, 4)), atol=1e-6, rtol=1e-5)
    assert_close(encoders.latents(given, 0 * noise).flatten(0, 1), 0.3 * said.mode(), atol=1e-6, rtol=1e-5)
    assert (drawn - 0.3 * said.mode().unflatten(0, (2, 4))).abs().max() > 0.1
    assert encoders.channels == 4 and encoders.shrink == 2 and not drawn.requires_grad
    assert not any(p.requires_grad for p in encoders.parameters()) and not encoders.vae.training


def test_tokens_are_clips_before_its_last_layer(encoder_folders, encoders):
    """What the second layer of three leaves, by running the first two; of all patches, the class token first."""
    vision = transformers.CLIPModel.from_pretrained(encoder_folders[1]).vision_model
    given = frames(2, 2, seed=4)
    seen = encoders.prepare(given.flatten(0, 1))
    with torch.no_grad():
        state = vision.pre_layrnorm(vision.embeddings(seen))
        for layer in vision.encoder.layers[:2]:
            state = layer(state, attention_mask=None)
            state = state[0] if isinstance(state, tuple) else state
    found = encoders.tokens(given)
    assert found.shape == (2, 2, 1 + 16, 8)
    assert_close(found.flatten(0, 1), state, atol=1e-5, rtol=1e-5)
    later = vision(seen).last_hidden_state
    assert (later - state).abs().max() > 0.05
    assert_close(encoders.tokens(given[1:]), found[1:], atol=1e-6, rtol=1e-5)  # however many there are at once


@pytest.mark.parametrize("side", [16, 20, 47])
def test_pictures_are_prepared_as_clips_own_processor_does(side, encoder_folders, encoders):
    """Smooth pictures of 256 levels, since it rounds, larger and smaller than CLIP's."""
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    picture = torch.stack([y, x, (6 * (x + y)).sin().abs()])
    levels = (picture * 255).round()
    own = transformers.AutoImageProcessor.from_pretrained(encoder_folders[1])
    image = Image.fromarray(levels.permute(1, 2, 0).byte().numpy())
    expected = own(image, return_tensors="pt").pixel_values[0]
    found = encoders.prepare(levels[None] / 255 * 2 - 1)[0]
    assert_close(found, expected, atol=0.0146, rtol=0)  # one level


def test_the_caption_is_read_by_stable_diffusion(encoder_folders, encoders):
    assert torch.equal(encoders.text, read_captions(encoder_folders[0], ["a fox"])[0]) and encoders.text.shape == (
        20,
        12,
    )
    nothing = Encoders.from_pretrained(*encoder_folders)
    assert torch.equal(nothing.text, read_captions(encoder_folders[0], [""])[0])
    assert not torch.equal(nothing.text, encoders.text)
    assert Encoders.from_pretrained(*encoder_folders, None).text is None


def test_what_does_not_fit_a_model_is_named(encoders):
    encoders.refuse_others(4, 8, 12, 16)
    refused(lambda: encoders.refuse_others(3, 8, 12, 16), "encoders", 4, "latents", 3)
    refused(lambda: encoders.refuse_others(4, 9, 12, 16), "encoders", 8, "tokens", 9)
    refused(lambda: encoders.refuse_others(4, 8, None, 16), "encoders", 12, "text", None)
    refused(lambda: encoders.refuse_others(4, 8, 12, 17), "image_size", 17)


def test_what_cannot_be_loaded_is_named(encoder_folders, tmp_path, monkeypatch):
    refused(lambda: Encoders.from_pretrained(str(tmp_path / "nowhere"), encoder_folders[1]), "vae", "nowhere")
    refused(lambda: Encoders.from_pretrained(encoder_folders[0], encoder_folders[0]), encoder_folders[0])
    state = load_file(f"{encoder_folders[1]}/model.safetensors")
    name = next(n for n in state if "vision" in n and n.endswith("fc1.weight"))
    save_file({n: v for n, v in state.items() if n != name}, tmp_path / "model.safetensors", dict(format="pt"))
    for file in ("config.json", "preprocessor_config.json"):
        (tmp_path / file).write_bytes((Path(encoder_folders[1]) / file).read_bytes())
    refused(lambda: Encoders.from_pretrained(encoder_folders[0], str(tmp_path)), 1, "fc1.weight")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    refused(lambda: Encoders.from_pretrained(*encoder_folders), "diffusers", "fourd-minimal[pretrained]")
