"""The commands of `fourd`: for each, what runs it and one sentence that says what it does.

Nothing is imported here but a tuple with names, so that `fourd -h` and a mistyped word are answered at once. A command
is a dataclass with a method `run`; every field is a flag, and below `settings` stand the values of its preset
(`--settings.sync-batch 8`).
"""

from typing import NamedTuple

GROUPS = {
    "use": "Use the trained models",
    "train": "Train them",
    "scale": "Scale up: open weights, larger data, many devices",
    "figures": "Make the README's tables and figures",
}


class Command(NamedTuple):
    """What the table says of a command."""

    runs: str
    """`module:Class` below `fourd_minimal`, imported when the command is called."""
    group: str
    """One of `GROUPS`."""
    help: str
    """One sentence."""
    reads: str = ""
    """Flags whose files and folders must exist; this is checked before anything is imported."""
    presets: str | None = None
    """`module:NAME` of the settings of each preset, the defaults of `--settings`."""


COMMANDS = {
    "generate": Command(
        "lab.generate:Generate",
        "use",
        "Two videos, an animated asset or a caption become a 4D grid, to be looked at in a browser.",
        reads="fixed-view freeze-time asset weights text-weights upsampler-weights",
    ),
    "reconstruct": Command(
        "lab.reconstruct:Reconstruct",
        "use",
        "A grid's frames become a scene of moving Gaussians to fly around in.",
        reads="grid",
    ),
    "multiview-video": Command(
        "lab.multiview_video:MultiviewVideo",
        "use",
        "A video of one object becomes videos of it from other viewpoints.",
        reads="video masks weights",
    ),
    "distil": Command(
        "lab.distil:Distil",
        "use",
        "A video of one object becomes a dynamic NeRF, by score distillation from 4DM.",
        reads="video masks weights",
        presets="configs.film_to_scene:SCENES",
    ),
    "fetch-characters": Command(
        "lab.fetch_characters:FetchCharacters",
        "use",
        "Openly licensed animated characters, which training draws from, are fetched.",
        reads="from",
    ),
    "train": Command(
        "lab.train:Train",
        "train",
        "4Real-Video's model is trained: its base, its synchronisation layers, and both together.",
        reads="start-from settings.shards",
        presets="configs.four_real_video:PRESETS",
    ),
    "train-4dm": Command(
        "lab.train_four_dm:TrainFourDM",
        "train",
        "4Diffusion's model 4DM is trained: its multi-view base, then its motion modules.",
        reads="start-from base-weights settings.shards",
        presets="configs.four_diffusion:FOUR_DM",
    ),
    "train-upsampler": Command(
        "lab.train_upsampler:TrainUpsampler",
        "train",
        "The diffusion upsampler of `fourd generate --upsample` is trained.",
        reads="start-from",
        presets="configs.upsampler:UPSAMPLERS",
    ),
    "train-text": Command(
        "lab.train_text:TrainText",
        "train",
        "The text-to-video model of `fourd generate --text` is trained.",
        reads="start-from",
        presets="configs.text_to_video:TEXT_TO_VIDEO",
    ),
    "train-features": Command(
        "lab.feature_training:TrainFeatures",
        "train",
        "The toy video features that the metrics fall back on are trained.",
        presets="lab.feature_training:FEATURES",
    ),
    "plan": Command(
        "lab.planner:Plan",
        "scale",
        "A training run's memory and hours are counted before it starts.",
    ),
    "curate": Command(
        "lab.curate:Curate",
        "scale",
        "Animated assets are scored, and those worth learning from are listed.",
        reads="assets objaverse",
    ),
    "render-shards": Command(
        "lab.render_shards:RenderShards",
        "scale",
        "Animated assets are rendered into shards of training data.",
        reads="assets objaverse kept",
    ),
    "train-wan": Command(
        "lab.wan:TrainWan",
        "scale",
        "Synchronisation layers are trained inside the open video model Wan 2.1.",
        reads="settings.videos settings.shards",
    ),
    "generate-wan": Command(
        "lab.wan:GenerateWan",
        "scale",
        "Two videos become a 4D grid with Wan 2.1.",
        reads="fixed-view freeze-time sync",
    ),
    "distil-pretrained": Command(
        "lab.distil_pretrained:DistilPretrained",
        "scale",
        "A caption becomes a dynamic NeRF, by score distillation from Stable Diffusion and AnimateDiff.",
    ),
    "evaluate": Command(
        "lab.evaluate:Evaluate",
        "figures",
        "4Real-Video's grids are measured on held-out scenes and on assets.",
        reads="weights assets",
    ),
    "ablate": Command(
        "lab.ablate:Ablate",
        "figures",
        "The designs of synchronisation are trained and compared on equal terms.",
        reads="weights",
        presets="configs.four_real_video:PRESETS",
    ),
    "windows": Command(
        "lab.windows:Windows",
        "figures",
        "Grids longer and wider than the training size are measured.",
        reads="weights",
    ),
    "upsampling": Command(
        "lab.upsampling_study:Upsampling",
        "figures",
        "The upsampler is compared with bicubic interpolation.",
        reads="weights grid-weights",
    ),
    "scenes": Command(
        "lab.scenes:Scenes",
        "figures",
        "Scenes are fitted to grids, with and without the offsets of eq. 11.",
        reads="weights",
    ),
    "cameras": Command(
        "lab.real_cameras:Cameras",
        "figures",
        "Each camera of a real recording is predicted from the others.",
        reads="recording",
    ),
    "evaluate-4dm": Command(
        "lab.evaluate_four_dm:EvaluateFourDM",
        "figures",
        "4DM's videos are measured on held-out creatures and on assets.",
        reads="weights assets films",
    ),
    "evaluate-distil": Command(
        "lab.evaluate_distil:EvaluateDistil",
        "figures",
        "Distilled scenes are shown beside the truth.",
        reads="weights assets films",
    ),
    "ablate-distil": Command(
        "lab.distil_ablation:AblateDistil",
        "figures",
        "The gains by the anchor loss and by 4D-aware score distillation are measured.",
        reads="weights",
    ),
    "ablate-curation": Command(
        "lab.curation_ablation:AblateCuration",
        "figures",
        "Motion learned from all clips is compared with motion learned from curated ones.",
        reads="weights",
    ),
    "rivals": Command(
        "lab.rivals_table:Rivals",
        "figures",
        "Both papers' baselines and systems are compared in one table.",
    ),
    "metric-study": Command(
        "lab.metric_study:MetricStudy",
        "figures",
        "The response of every metric to every corruption of a video is measured.",
        reads="features",
    ),
}

RENAMED = {"surround": "multiview-video"}
"""Old names, which answer with the new line for one release."""
