"""Weights on disk: what is read is what was written, and whatever else is there gets one clear sentence."""

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from refused import refused
from safetensors.torch import save_file
from tiny import shaken
from torch.testing import assert_close

from fourd_minimal.configs.four_diffusion import FOUR_DM
from fourd_minimal.configs.four_real_video import PRESETS
from fourd_minimal.configs.text_to_video import TEXT_TO_VIDEO
from fourd_minimal.configs.upsampler import UPSAMPLERS
from fourd_minimal.pretrained.toy_features import ToyFeatures, ToyFeaturesConfig
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.systems.text_to_video import TextToVideo
from fourd_minimal.systems.upsampler import Upsampler
from fourd_minimal.systems.weights import load_weights, save_weights, whole_file


@dataclass(frozen=True)
class Inner:
    size: tuple[int, int] = (2, 3)


@dataclass(frozen=True)
class Config:
    inner: Inner
    shares: tuple[tuple[str, float], ...] = (("a", 0.5),)


@pytest.fixture
def saved(tmp_path):
    config = Config(Inner((4, 5)), (("b", 0.25), ("c", 0.75)))
    return save_weights(tmp_path / "new" / "w.safetensors", {"x": torch.arange(3.0)}, config, step=7), config


def test_round_trip(saved):
    path, config = saved
    tensors, read, notes = load_weights(path, Config)
    assert read == config and notes == {"step": 7}
    torch.testing.assert_close(tensors["x"], torch.arange(3.0))


def test_nothing_but_the_file_is_left(saved):
    assert [f.name for f in saved[0].parent.iterdir()] == ["w.safetensors"]


def test_a_failed_write_leaves_what_was_there(saved):
    path, config = saved
    before = path.read_bytes()
    with pytest.raises(Exception, match="str"):
        save_weights(path, {"x": "no tensor"}, config)
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1


def test_what_is_no_whole_file_of_its_class_is_named(saved, tmp_path):
    path, _ = saved
    refused(lambda: load_weights(path, Inner), path, "Config")
    whole = path.read_bytes()
    for keep in (0, 4, 40, -1):
        path.write_bytes(whole[:keep])
        refused(lambda: load_weights(path, Config), path)
    torch.save({"x": torch.ones(1)}, path)
    refused(lambda: load_weights(path, Config), path)
    refused(lambda: load_weights(tmp_path / "none.safetensors", Config), tmp_path / "none.safetensors")
    save_file({"x": torch.ones(1)}, path)
    refused(lambda: load_weights(path, Config), path)


def test_whole_file_leaves_no_draft_behind(tmp_path):
    with pytest.raises(RuntimeError), whole_file(tmp_path / "a.txt") as draft:
        draft.write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with whole_file(tmp_path / "a.txt") as draft:
        draft.write_text("whole")
    assert [f.name for f in tmp_path.iterdir()] == ["a.txt"]


def test_weights_are_as_readable_as_any_other_file(tmp_path):
    (tmp_path / "plain").write_text("")
    path = save_weights(tmp_path / "a.safetensors", {"x": torch.zeros(2)}, Config(Inner()))
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


LABELS = (("shape", ("ball", "box")), ("motion", ("still", "bouncing")))
MODELS = {
    "4Real-Video": partial(FourRealVideo, PRESETS["smoke"].model),
    "4Real-Video, nothing trained": partial(FourRealVideo, replace(PRESETS["smoke"].model, sync="weighted")),
    "4DM": partial(FourDM, FOUR_DM["smoke"].model),
    "4DM's base": partial(FourDM, FOUR_DM["smoke"].model, motion=False),
    "upsampler": partial(Upsampler, UPSAMPLERS["smoke"].model),
    "text to video": partial(TextToVideo, TEXT_TO_VIDEO["smoke"].model),
    "toy features": partial(ToyFeatures, ToyFeaturesConfig(LABELS, image_size=16, widths=(8,))),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_what_a_model_saves_it_loads_without_another_argument(make, tmp_path):
    """Over older weights of the same model, too; in the 16 bits it is saved in, and frozen."""
    shaken(make()).save_pretrained(tmp_path)
    model = shaken(make())
    model.save_pretrained(tmp_path, made_by="a test")
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.config == model.config and loaded.notes["made_by"] == "a test"
    assert_close(loaded.state_dict(), model.half().float().state_dict(), rtol=0, atol=0)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    refused(lambda: type(model).from_pretrained(tmp_path), "safetensors")
