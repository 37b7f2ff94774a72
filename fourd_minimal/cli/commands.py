"""The commands of `fourd`: for each, what runs it and one sentence that says what it does.

Nothing heavy is imported here, so that `fourd -h` and a mistyped word are answered at once. A command is a dataclass
with a method `run`; every field is a flag, and `settings` holds the values of its preset (`--settings.sync-batch 8`).
"""

from typing import NamedTuple

GROUPS = {
    "use": "Use the trained models",
    "train": "Train them",
    "scale": "Scale up: open weights, larger data, many devices",
}


class Command(NamedTuple):
    """What the table says of a command."""

    runs: str
    """`module:Class` below `fourd_minimal`, imported when the command is called."""
    group: str
    help: str
    reads: str = ""
    """Flags whose files and folders must exist; this is checked before anything is imported."""
    presets: str | None = None
    """`module:NAME` of the settings of each preset, the defaults of `--settings`; or of those of each `--system`."""


COMMANDS = {
    "generate": Command(
        "cli.generate:Generate",
        "use",
        "Two videos, an animated asset or a caption become a 4D grid, shown in a browser.",
        reads="fixed-view freeze-time asset weights text-weights upsampler-weights",
    ),
    "reconstruct": Command(
        "cli.reconstruct:Reconstruct",
        "use",
        "A grid's frames become a scene of moving Gaussians to fly around in.",
        reads="grid",
    ),
    "multiview-video": Command(
        "cli.multiview_video:MultiviewVideo",
        "use",
        "A video of one object becomes videos of it from other viewpoints.",
        reads="video masks weights",
    ),
    "distil": Command(
        "cli.distil:Distil",
        "use",
        "A video of one object becomes a dynamic NeRF, by score distillation from 4DM.",
        reads="video masks weights",
        presets="configs.scene_distillation:SCENES",
    ),
    "fetch-characters": Command(
        "cli.fetch_characters:FetchCharacters",
        "use",
        "Openly licensed animated characters, which training draws from, are fetched.",
        reads="from",
    ),
    "train": Command(
        "cli.train:Train",
        "train",
        "A model is trained: --system four-real-video (the default), four-diffusion, upsampler or text-to-video.",
        reads="start-from base-weights settings.shards",
        presets="cli.train:PRESETS",
    ),
    "curate": Command(
        "cli.curate:Curate",
        "scale",
        "Animated assets are scored, and those worth learning from are listed.",
        reads="assets objaverse",
    ),
    "render-shards": Command(
        "cli.render_shards:RenderShards",
        "scale",
        "Animated assets are rendered into shards of training data.",
        reads="assets objaverse kept",
    ),
    "train-wan": Command(
        "pretrained.wan_training:TrainWan",
        "scale",
        "Synchronisation layers are trained inside the open video model Wan 2.1.",
        reads="settings.videos settings.shards",
    ),
    "generate-wan": Command(
        "pretrained.wan_generation:GenerateWan",
        "scale",
        "Two videos become a 4D grid with Wan 2.1.",
        reads="fixed-view freeze-time sync",
    ),
    "distil-pretrained": Command(
        "pretrained.caption_to_scene:DistilPretrained",
        "scale",
        "A caption becomes a dynamic NeRF, by score distillation from Stable Diffusion and AnimateDiff.",
    ),
}

RENAMED = {
    "train-4dm": "fourd train --system four-diffusion",
    "train-upsampler": "fourd train --system upsampler",
    "train-text": "fourd train --system text-to-video",
    "surround": "fourd multiview-video",
    "plan": "python -m figures.plan",
    "train-features": "python -m figures.train_features",
    "evaluate": "python -m figures.four_real_video",
    "ablate": "python -m figures.ablation",
    "windows": "python -m figures.sliding_window",
    "upsampling": "python -m figures.upsampler",
    "scenes": "python -m figures.deformable_gaussians",
    "cameras": "python -m figures.real_cameras",
    "evaluate-4dm": "python -m figures.four_diffusion",
    "evaluate-distil": "python -m figures.distil",
    "ablate-distil": "python -m figures.distil_ablation",
    "ablate-curation": "python -m figures.curation_ablation",
    "baselines": "python -m figures.baselines",
    "metric-study": "python -m figures.metric_study",
}
"""Old names, which answer with the new line for one release."""
