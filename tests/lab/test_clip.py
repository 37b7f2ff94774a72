"""CLIP against transformers: pixels, features, and metrics through it; a tiny random one, saved and loaded."""

import sys

import pytest
import torch
from torch.testing import assert_close

from fourd_minimal.lab.clip import Clip
from fourd_minimal.metrics import clip_c, clip_i, clip_score

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
    wanted = own(as_bytes, return_tensors="pt")["pixel_values"]
    assert_close(clip.prepare(whole), wanted, atol=1.3 / 255 / min(clip.std), rtol=0)
    assert (clip.prepare(whole) - wanted).abs().mean() < 0.5 / 255 / min(clip.std)


def test_features_are_those_of_transformers(clip, model, folder):
    given = pictures()
    wanted = features(model.get_image_features(pixel_values=clip.prepare(given)))
    assert_close(clip.pictures(given), wanted)
    captions = ["a r o", "g", "a a x a x"]
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(captions, padding=True, return_tensors="pt")
    assert tokens.input_ids.tolist()[0] == [5, 0, 1, 3, 6, 6, 6]  # words, none of them unknown
    assert_close(clip.captions(captions), features(model.get_text_features(**tokens)))
    assert clip.pictures(given).shape == clip.captions(captions).shape == (3, 10)


def test_batches_change_nothing(folder, clip):
    small = Clip.from_pretrained(folder, batch=2)
    captions = ["a r o", "a", "g x"]
    assert_close(small.pictures(pictures()), clip.pictures(pictures()))
    assert_close(small.captions(captions), clip.captions(captions))
    assert_close(clip.captions(captions)[1:2], clip.captions(["a"]))  # nor does what stands beside it


def test_a_caption_that_is_too_long_is_cut(clip):
    assert_close(clip.captions(["r " * 40]), clip.captions(["r " * 50]))


def test_only_the_middle_is_seen(clip):
    wide = pictures(1, 36, 80)
    other = wide.clone()
    other[..., :20], other[..., -20:] = 0, 1
    assert_close(clip.pictures(other), clip.pictures(wide))
    other[..., 40] = 0
    assert (clip.pictures(other) - clip.pictures(wide)).abs().max() > 1e-4


def test_metrics_through_it(clip):
    video, other = pictures(4), pictures(4, seed=1)
    cosine = torch.cosine_similarity
    f, g = clip.pictures(video), clip.pictures(other)
    assert clip_i(video, video, clip.pictures) == pytest.approx(1, abs=1e-5)
    assert clip_i(video, other, clip.pictures) == pytest.approx(cosine(f, g).mean().item(), abs=1e-5)
    assert clip_c(video, clip.pictures) == pytest.approx(cosine(f[1:], f[:-1]).mean().item(), abs=1e-5)
    words = clip.captions(["a r o"] * 4)
    wanted = 100 * cosine(f, words).clamp(min=0).mean().item()
    assert clip_score(video, words, clip.pictures) == pytest.approx(wanted, abs=1e-3)
    assert clip.name.startswith("CLIP (")


# What is refused


def test_bad_input_is_named(clip):
    with pytest.raises(ValueError, match=r"pictures lies in \[-1\.00, 1\.00\]"):
        clip.pictures(torch.linspace(-1, 1, 3 * 8 * 8).view(1, 3, 8, 8))
    with pytest.raises(ValueError, match="captions is 'a r o'; a list"):
        clip.captions("a r o")
    with pytest.raises(ValueError, match=r"captions is \[\]"):
        clip.captions([])


def test_no_folder_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"CLIP cannot be loaded from '.*none': .*; a folder with it, or a network"):
        Clip.from_pretrained(tmp_path / "none")


def test_weights_that_would_be_unpickled_are_refused(folder, model, tmp_path):
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="CLIP cannot be loaded"):
        Clip.from_pretrained(tmp_path)


def test_a_tensor_that_is_missing_is_refused(folder, model, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = {name: value for name, value in model.state_dict().items() if name != "visual_projection.weight"}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match=r"1 tensors missing or of another shape, such as visual_projection\.weight"):
        Clip.from_pretrained(tmp_path)


def test_without_transformers_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"transformers cannot be imported: .* \(pip install -e '\.\[metrics\]'\)"):
        Clip.from_pretrained("anything")
