"""CLIP against transformers: pixels, features, and metrics through it; a tiny random one, saved and loaded."""

import sys

import pytest
import torch
from refused import refused
from torch.testing import assert_close

from fourd_minimal.pretrained.clip import Clip

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[metrics]'")
WORDS = ["a", "r", "g", "o", "x"]  # one letter each: longer words want merges


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIP that sees 32 x 32 pixels and reads 12 tokens."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    text = dict(vocab_size=8, max_position_embeddings=12, bos_token_id=5, eos_token_id=6, pad_token_id=6, **sizes)
    config = transformers.CLIPConfig(
        text_config=text, vision_config=dict(image_size=32, patch_size=8, **sizes), projection_dim=10
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    vocabulary = {f"{word}</w>": i for i, word in enumerate(WORDS)} | {"<|startoftext|>": 5, "<|endoftext|>": 6}
    transformers.CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    processor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def processor(**options):
    """Transformers' own, which works on bytes with Pillow."""
    return getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)(**options)


@pytest.fixture(scope="module")
def clip(folder):
    return Clip.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder):
    return transformers.CLIPModel.from_pretrained(folder).eval()


def pictures(n=3, h=48, w=40, seed=0):
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(seed))


def features(found):
    return getattr(found, "pooler_output", found)


@pytest.mark.parametrize("size", [(48, 40), (40, 61), (90, 90), (20, 33), (36, 36)])
def test_pixels_are_those_of_transformers_within_rounding(clip, folder, size):
    whole = (pictures(h=size[0], w=size[1]) * 255).round() / 255
    as_bytes = [(picture * 255).round().byte().permute(1, 2, 0).numpy() for picture in whole]
    own = processor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})
    expected = own(as_bytes, return_tensors="pt")["pixel_values"]
    assert_close(clip.prepare(whole), expected, atol=1.3 / 255 / min(clip.std), rtol=0)
    assert (clip.prepare(whole) - expected).abs().mean() < 0.5 / 255 / min(clip.std)


def test_features_are_those_of_transformers(clip, model, folder):
    given = pictures()
    expected = features(model.get_image_features(pixel_values=clip.prepare(given)))
    assert_close(clip.pictures(given), expected)
    captions = ["a r o", "g", "a a x a x"]
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(captions, padding=True, return_tensors="pt")
    assert tokens.input_ids.tolist()[0] == [5, 0, 1, 3, 6, 6, 6]  # words, none of them unknown
    assert_close(clip.captions(captions), features(model.get_text_features(**tokens)))
    assert clip.pictures(given).shape == clip.captions(captions).shape == (3, 10)


def test_bad_input_is_named(clip):
    refused(lambda: clip.pictures(torch.linspace(-1, 1, 3 * 8 * 8).view(1, 3, 8, 8)), "pictures", "[-1.00, 1.00]")
    refused(lambda: clip.captions("a r o"), "captions", "a r o")
    refused(lambda: clip.captions([]), "captions", [])


def test_what_cannot_be_loaded_is_named(folder, model, tmp_path, monkeypatch):
    refused(lambda: Clip.from_pretrained(tmp_path / "none"), tmp_path / "none")
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = {name: value for name, value in model.state_dict().items() if name != "visual_projection.weight"}
    model.save_pretrained(tmp_path, state_dict=state)
    refused(lambda: Clip.from_pretrained(tmp_path), tmp_path, 1, "visual_projection.weight")
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")  # would be unpickled
    (tmp_path / "model.safetensors").unlink()
    refused(lambda: Clip.from_pretrained(tmp_path), tmp_path, "safetensors")
    monkeypatch.setitem(sys.modules, "transformers", None)
    refused(lambda: Clip.from_pretrained("anything"), "transformers", "fourd-minimal[metrics]")
