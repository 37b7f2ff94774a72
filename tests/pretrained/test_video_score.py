"""VideoScore against transformers' Idefics2 and a head by hand; a tiny random one, saved as the real one is."""

import hashlib
import json
import sys

import pytest
import torch
import torch.nn.functional as F
from refused import refused
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from fourd_minimal.pretrained import video_score
from fourd_minimal.pretrained.video_score import NAMES, PROMPT, VideoScore, is_published, network_class

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[metrics]'")
tokenizers = pytest.importorskip("tokenizers")
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<fake_token_around_image>", "<image>", "<end_of_utterance>"]
LATENTS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An Idefics2 that reads letters and sees 28 x 28 pixels, with five random outputs; pads on the right."""
    folder = tmp_path_factory.mktemp("video_score")
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *map(chr, range(32, 127)), "\n"])}
    letters = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    letters.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    letters.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    ends = dict(unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side="right")
    options = dict(tokenizer_object=letters, additional_special_tokens=SPECIAL[4:], **ends)
    tokenizer = transformers.PreTrainedTokenizerFast(**options)
    pictures = getattr(transformers, "Idefics2ImageProcessorPil", transformers.Idefics2ImageProcessor)
    size = {"shortest_edge": 28, "longest_edge": 42}
    processor = transformers.Idefics2Processor(pictures(size=size), tokenizer, image_seq_len=LATENTS)
    processor.save_pretrained(folder)
    torch.manual_seed(0)
    layers = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    config = transformers.Idefics2Config(
        image_token_id=SPECIAL.index("<image>"),
        vision_config=dict(image_size=28, patch_size=14, **layers),
        perceiver_config=dict(
            hidden_size=16,
            resampler_n_latents=LATENTS,
            resampler_depth=1,
            resampler_n_heads=2,
            resampler_head_dim=8,
            num_key_value_heads=1,
        ),
        text_config=dict(
            model_type="mistral", vocab_size=len(vocabulary), num_key_value_heads=1, pad_token_id=3, **layers
        ),
        num_labels=5,
    )
    network = network_class()(config)
    for value in network.parameters():
        if value.ndim > 1:
            torch.nn.init.normal_(value, std=0.5)  # loud enough for every frame and word to be heard
    torch.nn.init.normal_(network.score.bias)
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def scorer(folder):
    return VideoScore.from_pretrained(folder, dtype=torch.float32)


def videos(n=2, t=3, h=28, w=40):
    return torch.rand(n, t, 3, h, w, generator=torch.Generator().manual_seed(0))


def copied(folder, to):
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to / "model.safetensors"


def by_hand(folder, videos, captions, frames):
    """One padded batch, as the authors' class pools it: what is before the first padding, or the last."""
    state = load_file(folder / "model.safetensors")
    model = transformers.Idefics2Model(transformers.Idefics2Config.from_pretrained(folder)).eval()
    inside = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
    model.load_state_dict(inside)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    around = "<fake_token_around_image>"
    shown = f"{around}{'<image>' * LATENTS}{around} " * len(frames)
    texts = [PROMPT.replace("{text_prompt}", caption) + shown for caption in captions]
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    pixels = (videos[:, frames] * 255).round() / 255
    h, w = videos.shape[-2:]
    with torch.no_grad():
        hidden = model(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            pixel_values=(pixels - 0.5) / 0.5,
            pixel_attention_mask=torch.ones(len(videos), len(frames), h, w).long(),
        ).last_hidden_state
    last = ((tokens.input_ids == 3).int().argmax(-1) - 1) % tokens.input_ids.shape[1]
    assert len(set(last.tolist())) == len(set(map(len, captions)))
    return F.linear(hidden[torch.arange(len(videos)), last], state["score.weight"], state["score.bias"])


def test_it_is_idefics2_and_the_head_on_the_last_token(folder, scorer):
    captions = ["a red ball", "a box that turns"]
    found = scorer.score(videos(), captions)
    assert tuple(found) == NAMES and all(value.shape == (2,) for value in found.values())
    expected = by_hand(folder, videos(), captions, [0, 1, 2])
    assert_close(torch.stack([*found.values()], -1), expected, atol=1e-4, rtol=1e-4)
    assert (expected[0] - expected[1]).abs().min() > 1e-3  # or the comparison says nothing


def test_what_it_is_told_and_shown_matters(scorer):
    one = videos(1)
    first, other = (scorer.score(one, [caption]) for caption in ("a red ball", "a red box"))
    backwards = scorer.score(one.flip(1), ["a red ball"])
    for name in NAMES:
        assert abs(first[name] - other[name]) > 1e-4 and abs(first[name] - backwards[name]) > 1e-4


def test_too_many_frames_are_thinned_evenly(folder):
    scorer, video = VideoScore.from_pretrained(folder, dtype=torch.float32, max_frames=4), videos(1, 10)
    expected = by_hand(folder, video, ["a"], [0, 2, 5, 7])
    assert_close(torch.stack([*scorer.score(video, ["a"]).values()], -1), expected, atol=1e-4, rtol=1e-4)


def test_several_files_with_an_index_are_one(folder, scorer, tmp_path):
    single = copied(folder, tmp_path)
    state = load_file(single)
    single.unlink()
    names, where = sorted(state), {}
    for number in range(2):
        file = f"model-{number + 1:05}-of-00002.safetensors"
        save_file({name: state[name] for name in names[number::2]}, tmp_path / file, {"format": "pt"})
        where |= dict.fromkeys(names[number::2], file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    sharded = VideoScore.from_pretrained(tmp_path, dtype=torch.float32)
    assert_close(sharded.score(videos(1), ["a"]), scorer.score(videos(1), ["a"]))


def test_the_label_knows_the_published_words(folder, scorer, monkeypatch):
    assert not is_published(PROMPT) and len(video_score.PUBLISHED) == 64
    monkeypatch.setattr(video_score, "PUBLISHED", hashlib.sha256(b"a {text_prompt} b").hexdigest())
    labelled = VideoScore.from_pretrained(folder, prompt="\na  {text_prompt}\nb\n")
    assert str(folder) in labelled.label and len(labelled.label) < len(scorer.label)


def test_weights_that_do_not_fit_are_refused(folder, scorer, tmp_path):
    file = copied(folder, tmp_path)
    whole = load_file(file)
    for name in ("score.bias", "model.connector.perceiver_resampler.latents"):
        save_file({n: v for n, v in whole.items() if n != name}, file, {"format": "pt"})
        refused(lambda: VideoScore.from_pretrained(tmp_path), tmp_path, 1, name)
    save_file(whole | {"score.weight": whole["score.weight"][:4].clone()}, file, {"format": "pt"})
    refused(lambda: VideoScore.from_pretrained(tmp_path), tmp_path, "score.weight")
    torch.save(whole, tmp_path / "pytorch_model.bin")  # would be unpickled
    file.unlink()
    refused(lambda: VideoScore.from_pretrained(tmp_path), "VideoScore", tmp_path)
    config = transformers.Idefics2Config.from_pretrained(folder)
    config.num_labels = 3
    refused(lambda: VideoScore(network_class()(config), scorer.processor), "network", 3)


def test_bad_input_is_named(folder, scorer, tmp_path, monkeypatch):
    refused(lambda: scorer.score(videos(), ["a"]), "captions", 1)
    refused(lambda: scorer.score(videos(), "ab"), "captions", "string")
    refused(lambda: scorer.score(videos() * torch.nan, ["a", "b"]), "videos", "NaN")
    refused(lambda: VideoScore(scorer.network, scorer.processor, "rate this"), "prompt", "rate this")
    refused(lambda: VideoScore(scorer.network, scorer.processor, max_frames=0), "max_frames", 0)
    refused(lambda: VideoScore.from_pretrained(tmp_path / "none"), "VideoScore", "none")
    monkeypatch.setitem(sys.modules, "transformers", None)
    refused(lambda: VideoScore.from_pretrained(folder), "transformers", "[metrics]")
