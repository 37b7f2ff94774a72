"""A video of an object in, videos of it from other viewpoints out: 4DM from a shell."""

from dataclasses import dataclass
from pathlib import Path

from fourd_minimal.configs.presets import device
from fourd_minimal.data.foreground import Matte, read_object
from fourd_minimal.data.video import count_frames
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.viewers.results_folder import GRID_FILES, whole_folder, write_grids


@dataclass(frozen=True)
class MultiviewVideo:
    """Turn a video of one object into videos of it from other viewpoints.

    The shipped weights know walking creatures.
    """

    video: Path
    """The video of one object: with alpha, on white, or together with --masks or --matte."""
    masks: Path | None = None
    """A video or a folder of pictures which are white where the object is."""
    matte: Matte | None = None
    """The library that separates the object from its background."""
    frames: int | None = None
    """This many evenly spaced frames of the video are taken; by default as many as the model was trained for."""
    azimuths_deg: tuple[float, ...] = (0.0, 90.0, 180.0, 270.0)
    """The cameras' azimuths, relative to the video's camera."""
    steps: int = 32
    """Sampling takes this many steps."""
    guidance: float = 2.0
    """The scale of classifier-free guidance by the video."""
    seed: int = 0
    """The noise that sampling starts from has this seed."""
    weights: str = "toy"
    """4DM's weights are "toy", or a folder that `fourd train --system four-diffusion` wrote."""
    out: Path = Path("fourd_out/multiview_video")
    """The results go into this folder."""

    def run(self) -> None:
        """Make the views, and print where they are.

        Raises:
            ValueError: counts that make no sense, and whatever reading the video raises.
        """
        for name, least in dict(frames=1, steps=1).items():
            if (given := getattr(self, name)) is not None and given < least:
                raise ValueError(f"--{name} is {given}; expected at least {least}.")
        model = FourDM.from_pretrained(self.weights, motion=True).to(device())
        frames = self.frames or min(model.config.times, count_frames(self.video))
        with whole_folder(self.out, GRID_FILES) as folder:
            video = read_object(self.video, model.config.image_size, frames, self.masks, self.matte)
            print(f"Sampling {len(self.azimuths_deg)} views in {self.steps} steps ...", flush=True)
            windows = frames > model.config.times
            views = model.sample(video, self.azimuths_deg, self.steps, self.guidance, self.seed, windows)
            print(f"{len(views)} views x {frames} times of {video.shape[-1]} pixels")
            write_grids({"generated": views, "video": video.expand_as(views)}, folder, known=False)
        print(f"Look around: {(self.out / 'grid.html').resolve()}\nStill:       {(self.out / 'grid.png').resolve()}")
