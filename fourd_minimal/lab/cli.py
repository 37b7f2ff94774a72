"""The command `fourd`: what the package can do, from a shell.

    fourd generate --fixed-view a.mp4 --freeze-time b.mp4 --out dir      two videos become a grid
    fourd generate --asset fox.glb                                       an animated asset does
    fourd generate --text "a red ball bouncing"                          a caption does
    fourd reconstruct --grid fourd_out/frames                            a grid becomes a scene to fly around in
    fourd train --preset cpu --out runs/cpu                              make the weights again
    fourd train-upsampler --preset cpu                                   those of the upsampler
    fourd train-text --preset cpu --start-from toy                       those of the text-to-video model
    fourd evaluate --out figures                                         the README's numbers again
    fourd ablate --preset cpu --out runs/ablation                        every design of the paper, on equal terms
    fourd windows --out figures                                          grids longer and wider than the training size
    fourd upsampling --out figures                                       larger frames, against bicubic interpolation
    fourd scenes --out figures                                           scenes fitted to grids; does eq. 11 help?
    fourd cameras --recording folder --out figures                       three real cameras in, the fourth predicted
    fourd surround --video a.webm                                        one film of an object: films from all around
    fourd distil --video a.webm                                          one film of an object: a scene that moves
    fourd evaluate-distil --out figures                                  its pictures, beside the truth
    fourd ablate-distil --out figures                                    what the anchor and 4D-aware SDS bring
    fourd train-4dm --preset cpu                                         the multi-view base and its motion modules
    fourd evaluate-4dm --out figures                                     their numbers
    fourd curate --assets folder                                         which animated assets are worth learning from
    fourd ablate-curation --out figures                                  motion learned from all clips, or from those
    fourd rivals --out figures                                           both papers' rivals and systems, one table
    fourd metric-study --out figures                                     which metric sees which corruption
    fourd train-features --preset cpu                                    the toy features of the metrics
    fourd plan --system four_real_video --devices 24                     memory and hours of a run before it starts
    fourd render-shards --assets folder --out runs/shards                animated assets become training data
    fourd train-wan --out runs/wan                                       synchronisation layers in Wan 2.1
    fourd generate-wan --fixed-view a.mp4 --freeze-time b.mp4            two videos become a grid, by Wan 2.1
    fourd distil-pretrained --prompt "a fox running"                     a caption, Stable Diffusion, a moving scene

Every flag is a field of a dataclass (`Generate`, `Train`, ...), and below what trains the preset itself, so any of its
values can be changed (`--settings.sync-batch 8`).
"""

import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import tyro

from fourd_minimal.configs.film_to_scene import SCENES
from fourd_minimal.configs.four_diffusion import FOUR_DM
from fourd_minimal.configs.four_real_video import PRESETS
from fourd_minimal.configs.text_to_video import TEXT_TO_VIDEO
from fourd_minimal.configs.upsampler import UPSAMPLERS
from fourd_minimal.lab.ablate import Ablate
from fourd_minimal.lab.curate import Curate
from fourd_minimal.lab.curation_ablation import AblateCuration
from fourd_minimal.lab.devices import leave
from fourd_minimal.lab.distil import Distil
from fourd_minimal.lab.distil_ablation import AblateDistil
from fourd_minimal.lab.distil_pretrained import DistilPretrained
from fourd_minimal.lab.evaluate import Evaluate
from fourd_minimal.lab.evaluate_distil import EvaluateDistil
from fourd_minimal.lab.evaluate_four_dm import EvaluateFourDM
from fourd_minimal.lab.feature_training import TrainFeatures
from fourd_minimal.lab.generate import Generate
from fourd_minimal.lab.metric_study import MetricStudy
from fourd_minimal.lab.planner import Plan
from fourd_minimal.lab.presets import preset_name
from fourd_minimal.lab.real_cameras import Cameras
from fourd_minimal.lab.reconstruct import Reconstruct
from fourd_minimal.lab.render_shards import RenderShards
from fourd_minimal.lab.rivals_table import Rivals
from fourd_minimal.lab.scenes import Scenes
from fourd_minimal.lab.surround import Surround
from fourd_minimal.lab.train import Train, TrainFourDM, TrainText, TrainUpsampler
from fourd_minimal.lab.upsampling import Upsampling
from fourd_minimal.lab.wan import GenerateWan, TrainWan
from fourd_minimal.lab.windows import Windows


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and run; bad input ends in one sentence and exit status 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = _named_preset(arguments)
    preset, rare = dict(preset=name, settings=PRESETS[name]), dict(checkpoint_every=1000 if name == "full" else 100)
    upsampler = TrainUpsampler(name, settings=UPSAMPLERS[name], **rare)
    text = TrainText(name, settings=TEXT_TO_VIDEO[name], **rare)
    four_dm = TrainFourDM(name, settings=FOUR_DM[name], **rare)
    distil = Distil(preset=name, settings=SCENES[name])
    commands = (
        Annotated[Generate, tyro.conf.subcommand("generate")]
        | Annotated[Reconstruct, tyro.conf.subcommand("reconstruct")]
        | Annotated[Train, tyro.conf.subcommand("train", default=Train(**preset, **rare))]
        | Annotated[TrainUpsampler, tyro.conf.subcommand("train-upsampler", default=upsampler)]
        | Annotated[TrainText, tyro.conf.subcommand("train-text", default=text)]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Ablate, tyro.conf.subcommand("ablate", default=Ablate(**preset))]
        | Annotated[Windows, tyro.conf.subcommand("windows")]
        | Annotated[Upsampling, tyro.conf.subcommand("upsampling")]
        | Annotated[Scenes, tyro.conf.subcommand("scenes")]
        | Annotated[Cameras, tyro.conf.subcommand("cameras")]
        | Annotated[Surround, tyro.conf.subcommand("surround")]
        | Annotated[Distil, tyro.conf.subcommand("distil", default=distil)]
        | Annotated[TrainFourDM, tyro.conf.subcommand("train-4dm", default=four_dm)]
        | Annotated[EvaluateFourDM, tyro.conf.subcommand("evaluate-4dm")]
        | Annotated[Curate, tyro.conf.subcommand("curate")]
        | Annotated[EvaluateDistil, tyro.conf.subcommand("evaluate-distil")]
        | Annotated[AblateDistil, tyro.conf.subcommand("ablate-distil")]
        | Annotated[AblateCuration, tyro.conf.subcommand("ablate-curation")]
        | Annotated[Rivals, tyro.conf.subcommand("rivals")]
        | Annotated[MetricStudy, tyro.conf.subcommand("metric-study")]
        | Annotated[TrainFeatures, tyro.conf.subcommand("train-features")]
        | Annotated[Plan, tyro.conf.subcommand("plan")]
        | Annotated[RenderShards, tyro.conf.subcommand("render-shards")]
        | Annotated[TrainWan, tyro.conf.subcommand("train-wan")]
        | Annotated[GenerateWan, tyro.conf.subcommand("generate-wan")]
        | Annotated[DistilPretrained, tyro.conf.subcommand("distil-pretrained")]
    )
    command = tyro.cli(commands, args=arguments, prog="fourd", description="4D generation, small enough to read.")
    warnings.formatwarning = lambda message, *_: f"fourd: {message}\n"
    try:
        command.run()
    except (ValueError, OSError) as error:
        print(f"fourd: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(
            "\nfourd: stopped. What was written is whole: the same line again goes on from there, or from the start.",
            file=sys.stderr,
        )
        raise SystemExit(130) from None
    finally:
        leave()


def _named_preset(arguments: Sequence[str]) -> str:
    """The word after `--preset`: its values are the defaults of `--settings`."""
    words = [w for a in arguments for w in a.split("=", 1)]
    name = words[words.index("--preset") + 1] if "--preset" in words[:-1] else preset_name()
    return name if name in PRESETS else "cpu"  # an unknown one is reported by the parser
