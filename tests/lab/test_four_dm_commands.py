"""surround, train-4dm, evaluate-4dm, ablate-curation: from start to end with the smallest model."""

import json
from pathlib import Path

import pytest
import torch

from fourd_minimal.configs.four_diffusion import FOUR_DM
from fourd_minimal.data.procedural import SPOILT
from fourd_minimal.data.video import write_video
from fourd_minimal.lab.curation_ablation import CURATED, WHOLE, AblateCuration, collection, judged
from fourd_minimal.lab.evaluate_four_dm import EvaluateFourDM
from fourd_minimal.lab.multiview import orbits
from fourd_minimal.lab.surround import Surround
from fourd_minimal.lab.train import TrainFourDM
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.systems.weights import load_weights

SMOKE = FOUR_DM["smoke"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    TrainFourDM("smoke", out=folder, settings=SMOKE).run()
    return folder


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    _, film, _ = orbits(SMOKE.model, 1, 10, 3)
    path = tmp_path_factory.mktemp("film") / "creature"
    write_video((film[0] + 1) / 2, path)
    return path


def test_training_leaves_both_files_and_how_they_were_made(weights):
    assert {f.name for f in weights.glob("*.safetensors")} >= {"base.safetensors", "motion.safetensors"}
    *_, notes = load_weights(weights / "motion.safetensors", type(SMOKE.model))
    assert notes["made_by"] == "fourd train-4dm --preset smoke --stage motion"
    FourDM.from_pretrained(weights)


def test_a_base_can_be_trained_on(weights, tmp_path):
    TrainFourDM("smoke", "base", tmp_path / "more", weights, SMOKE).run()
    *_, notes = load_weights(tmp_path / "more/base.safetensors", type(SMOKE.model))
    assert notes["after"]["made_by"].endswith("--stage base")
    for options in (("smoke", "motion", tmp_path, weights), ("smoke", "all", weights, weights)):
        with pytest.raises(ValueError, match="--start-from goes with"):
            TrainFourDM(*options, SMOKE).run()


@pytest.mark.parametrize("frames", [None, 10])
def test_a_film_is_surrounded(frames, film, weights, tmp_path):
    Surround(film, frames=frames, steps=2, weights=str(weights), out=tmp_path / "out").run()
    assert (tmp_path / "out/grid.html").exists() and (tmp_path / "out/grid.png").exists()
    views = list((tmp_path / "out/frames").iterdir())
    assert len(views) == 4 and len(list(views[0].iterdir())) == (frames or 8)


def test_a_film_without_an_object_is_named(weights, tmp_path):
    write_video(torch.ones(3, 3, 16, 16), tmp_path / "white")
    with pytest.raises(ValueError, match="frame 0 shows no object"):
        Surround(tmp_path / "white", weights=str(weights), out=tmp_path / "out").run()
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="--steps is 0; at least 1"):
        Surround(tmp_path / "white", steps=0).run()


def test_the_evaluation_writes_tables_and_pictures(film, weights, tmp_path, capsys):
    EvaluateFourDM(str(weights), 2, (0, 1), 2, films=(film,), out=tmp_path).run()
    said = capsys.readouterr().out
    assert (
        "The base on single pictures of 2 held-out creatures" in said and "4DM against its base, shared noise" in said
    )
    assert {f.name for f in tmp_path.iterdir()} == {
        "four_diffusion.md", "four_diffusion.json", "four_diffusion_base.png", "four_diffusion_video.png",
        "four_diffusion_real.png",
    }  # fmt: skip
    assert len(json.loads((tmp_path / "four_diffusion.json").read_text())) == 2
    with pytest.raises(ValueError, match="--scenes is 1"):
        EvaluateFourDM(scenes=1).run()


def test_a_collection_is_mostly_bad_and_curation_finds_the_good():
    clips = collection(10)
    assert [how for _, how in clips] == [None, *SPOILT] * 2
    assert len({seed for seed, _ in clips}) == 10 and max(seed for seed, _ in clips) < 1_000_000
    assert [not why for why in judged(clips, SMOKE)] == [how is None for _, how in clips]


def test_curated_and_whole_are_trained_and_compared(weights, tmp_path, capsys):
    run = AblateCuration("smoke", str(weights), 5, 2, 1, (0, 1), 2, (0, 1), 2, tmp_path / "runs", tmp_path / "out")
    run.run()
    said = capsys.readouterr().out
    assert f"| {CURATED} |" in said and f"| {WHOLE} |" in said and f"{CURATED} against {WHOLE}" in said
    assert "| good | 1 | 1 |" in said
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"curation_ablation.md", "curation_ablation.json"}
    assert len(list((tmp_path / "runs").iterdir())) == 4
    with pytest.raises(ValueError, match="--clips is 4; at least 5"):
        AblateCuration("smoke", clips=4).run()
    with pytest.raises(ValueError, match="--preset is 'large'"):
        AblateCuration("large", out=Path("nowhere")).run()
