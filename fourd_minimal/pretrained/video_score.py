"""VideoScore: five numbers that a language model, which sees the frames and reads the caption, gives a video.

He et al. 2024 (arXiv 2406.15252), TIGER-AI-Lab/VideoScore: Mantis-Idefics2 8B, trained by regression on what people
said of 37,600 made videos, from 1 (bad) to 4 (as if real). 4Real-Video reports three of the five, along both axes of
the grid. A video becomes one text

    prompt with the caption, then <image> for each frame

every <image> becomes 64 tokens from the frame, and of the last token's hidden state h

    scores = W h + b          not held in 1 to 4

The published wording of the prompt is part of the model: with other words it gives other numbers, that compare with
nothing published. It is in the authors' `examples/run_videoscore.py`; it is not here. Give it as `prompt`; `label`
knows it by its fingerprint, and says so of any other. The weights are about 17 GB.

Departures: none in the network. Frames beyond the most are left out evenly, as in the authors' example; their
benchmark takes others. Nobody resamples to the 8 frames per second of the videos that it was trained on: do that.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from fourd_minimal.metrics import check
from fourd_minimal.pretrained.clip import MISSING, not_loaded, refuse_gaps

NAMES = ("visual quality", "temporal consistency", "dynamic degree", "text-to-video alignment", "factual consistency")
"""What the five numbers are, in the network's order."""
CAPTION = "{text_prompt}"
"""Where the caption goes in a prompt."""
PROMPT = """
You judge videos that a model has made from a text. Look at the frames below and read the text.
Give the video five numbers, each between 1.0 (bad) and 4.0 (perfect, like a real video):
visual quality: sharpness, resolution, brightness, colour
temporal consistency: things stay the same, and move smoothly
dynamic degree: how much changes
text-to-video alignment: does it show what the text says?
factual consistency: does it agree with what everybody knows of the world?

The text is "{text_prompt}". The frames are:
"""
"""Ours, to try the machinery with; the published one is in `examples/run_videoscore.py` of TIGER-AI-Lab/VideoScore."""
PUBLISHED = "6acebe345ee6dcbd142e000459c96a7c0bbd4594bb6978b992f65f3d2a375928"
"""SHA-256 of the published prompt, its words joined by single spaces."""


def is_published(prompt: str) -> bool:
    """Whether a prompt has the published words.

    >>> is_published(PROMPT)
    False
    """
    return hashlib.sha256(" ".join(prompt.split()).encode()).hexdigest() == PUBLISHED


class VideoScore:
    """The network, and how it wants videos and captions.

    Args:
        network: of `network_class`.
        processor: a `transformers.Idefics2Processor`.
        prompt: with `{text_prompt}` where the caption goes.
        name: of the weights.
        max_frames: of one video; 16, or 48 for VideoScore-v1.1.

    Raises:
        ValueError: a prompt without a place for the caption, with images of its own, fewer than 1 frame, or a network
            with other than five outputs.
    """

    def __init__(self, network: nn.Module, processor, prompt: str = PROMPT, name: str = "", max_frames: int = 16):
        if prompt.count(CAPTION) != 1 or "<image>" in prompt:
            raise ValueError(f"prompt is {prompt[:40]!r}...; expected text with {CAPTION} once and no <image>.")
        if max_frames < 1:
            raise ValueError(f"max_frames is {max_frames}; expected at least 1.")
        if network.config.num_labels != len(NAMES):
            raise ValueError(f"network gives {network.config.num_labels} numbers; expected {len(NAMES)}.")
        self.network, self.processor = network.eval().requires_grad_(False), processor
        self.prompt, self.max_frames = prompt, max_frames
        words = "" if is_published(prompt) else ", not with the published prompt: compare with nothing published"
        self.label = f"VideoScore ({name}{words})"

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path = "TIGER-Lab/VideoScore",
        prompt: str = PROMPT,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        max_frames: int = 16,
    ) -> "VideoScore":
        """The published weights, or a folder with them: one safetensors file or several with an index, and a processor.

        Raises:
            ValueError: no transformers; no such folder; no network and nothing cached; weights that are no safetensors,
                lack a tensor or have one of another shape; see also the class.
        """
        try:
            from transformers import AutoProcessor
        except ImportError as reason:
            raise ValueError(MISSING.format(reason)) from None
        name, options = str(name_or_folder), dict(use_safetensors=True, output_loading_info=True)
        try:
            network, info = network_class().from_pretrained(name, dtype=dtype, ignore_mismatched_sizes=True, **options)
            processor = AutoProcessor.from_pretrained(name)
        except OSError as reason:
            raise not_loaded("VideoScore", name, reason) from None
        refuse_gaps(name, info)
        processor.image_seq_len = network.config.perceiver_config.resampler_n_latents
        return cls(network.to(device), processor, prompt, name, max_frames)

    @torch.no_grad()
    def score(self, videos: Float[Tensor, "n t 3 h w"], captions: Sequence[str]) -> dict[str, Float[Tensor, " n"]]:
        """Five numbers for each video, trained to be 1 (bad) to 4 (as if real); one video at a time.

        Args:
            videos: frames in [0, 1], which become bytes as the network was trained with.
            captions: one for each.

        Raises:
            ValueError: see `metrics.check`; another number of captions.
        """
        check("videos", videos)
        if isinstance(captions, str) or len(captions) != len(videos):
            given = "one string" if isinstance(captions, str) else f"{len(captions)} captions"
            raise ValueError(f"captions is {given}; expected a list of {len(videos)}, one for each video,.")
        found = torch.stack([self._of_one(*pair) for pair in zip(videos, captions, strict=True)]).to(videos)
        return dict(zip(NAMES, found.unbind(-1), strict=True))

    def _of_one(self, video: Float[Tensor, "t 3 h w"], caption: str) -> Float[Tensor, " 5"]:
        t, most = len(video), self.max_frames
        kept = video if t <= most else video[torch.arange(most) * t // most]
        frames = rearrange(kept, "t c h w -> t h w c").mul(255).round().byte().cpu().numpy()
        text = self.prompt.replace(CAPTION, caption.replace("<image>", "")) + "<image> " * len(frames)
        given = self.processor(text=[text], images=[[Image.fromarray(f) for f in frames]], return_tensors="pt")
        return self.network(**given.to(self.network.device))[0].float()


def network_class() -> type:
    """Idefics2 with a linear head on the last token, by the names of the published tensors: `model.*` and `score.*`.

    A class in a function, since its base is transformers'.
    """
    from transformers import Idefics2Model, Idefics2PreTrainedModel

    class Idefics2ForSequenceClassification(Idefics2PreTrainedModel):
        def __init__(self, config):
            super().__init__(config)
            self.model = Idefics2Model(config)
            self.score = nn.Linear(config.text_config.hidden_size, config.num_labels)
            self.post_init()

        def forward(self, **given) -> Float[Tensor, "b 5"]:
            """Of texts without padding, whose last token is the last."""
            return self.score(self.model(**given, use_cache=False).last_hidden_state[:, -1])

    return Idefics2ForSequenceClassification
