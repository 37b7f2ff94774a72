"""A blind user study: two videos without names, seven questions, and statistics of the answers.

4Real-Video, section 8: evaluators see two anonymous videos of the same thing and answer which is better in seven ways,
or that there is no difference ("junk"). Which method stands on which side is drawn anew for every pair, and no page
knows it. Answers go into a CSV file, one line each, the moment they are complete. In a notebook:

    UserStudy({"fox": {"ours": video, "theirs": other}}, "answers.csv")

`python -m figures.user_study answers.csv` sums them up. For each question, junk left out:

    two methods     wins of n, and the probability of a split at least as uneven if nobody could tell (binomial test)
    several         Bradley-Terry: P(i beats j) = s_i / (s_i + s_j), the strengths s that make the answers likeliest
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from io import BytesIO
from pathlib import Path
from random import Random

import ipywidgets
import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from tyro.conf import Positional

from fourd_minimal.cli.main import program
from fourd_minimal.systems.pixels import check_pixels
from fourd_minimal.systems.weights import whole_file
from fourd_minimal.training.tables import table

QUESTIONS = {
    "motion": "Which one moves more like the real thing? Size, smoothness and steadiness of motion; limbs that melt.",
    "foreground": "Which one has the better foreground?",
    "background": "Which one has the better background?",
    "shape": "In which one does the main thing have the more natural shape?",
    "overall": "Which one has the higher quality, all in all?",
    "dynamic": "Which one has more motion? Of the thing, not of the camera, and melting does not count.",
    "description": "Which one shows more of what the description says?",
}
"""The paper's seven, in our words."""
LEFT, RIGHT, JUNK = "left", "right", "no difference"


@dataclass(frozen=True)
class Answer:
    """One line of the file."""

    subject: str
    question: str
    left: str
    """The method on this side."""
    right: str
    answer: str
    """`left`, `right` or `no difference`."""

    @property
    def winner(self) -> str | None:
        return {LEFT: self.left, RIGHT: self.right}.get(self.answer)


class UserStudy(ipywidgets.VBox):
    """The page: both videos, the questions, and a button that is ready when all are answered.

    Args:
        videos: subject -> method -> video `(t, 3, h, w)` in [0, 1]; every pair of methods is shown for every subject.
        path: of the CSV file; answers that are there are kept, and their pairs are not asked again.
        seed: of the order, and of who stands where.
        fps: of the videos.

    Raises:
        ValueError: a subject with fewer than two methods, or frames outside [0, 1].
    """

    def __init__(
        self,
        videos: Mapping[str, Mapping[str, Float[Tensor, "t 3 h w"]]],
        path: str | Path,
        seed: int = 0,
        fps: float = 8.0,
    ):
        for subject, methods in videos.items():
            if len(methods) < 2:
                raise ValueError(f"videos[{subject!r}] has {len(methods)} method; expected at least 2.")
            for name, video in methods.items():
                check_pixels(f"videos[{subject!r}][{name!r}]", video)
        self.path, self.videos, self.fps = Path(path), videos, fps
        asked = {(a.subject, *sorted((a.left, a.right))) for a in read_answers(path)} if self.path.exists() else set()
        draw, self.left_over = Random(seed), []
        for subject, methods in videos.items():
            names = sorted(methods)
            pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
            for pair in pairs:
                sides = draw.sample(pair, 2)  # drawn even if not asked, so that the rest stays as it was
                if (subject, *pair) not in asked:
                    self.left_over.append((subject, *sides))
        draw.shuffle(self.left_over)
        self.buttons = {
            name: ipywidgets.ToggleButtons(options=[LEFT, RIGHT, JUNK], value=None, description=name, tooltip=text)
            for name, text in QUESTIONS.items()
        }
        self.pictures = [ipywidgets.Image(format="gif", width=256) for _ in range(2)]
        self.heading, self.next = ipywidgets.HTML(), ipywidgets.Button(description="Next", disabled=True)
        self.next.on_click(self._save)
        for button in self.buttons.values():
            button.observe(self._ready, "value")
        lines = [ipywidgets.VBox([ipywidgets.HTML(QUESTIONS[n]), b]) for n, b in self.buttons.items()]
        super().__init__([self.heading, ipywidgets.HBox(self.pictures), *lines, self.next])
        self._show()

    def _ready(self, _) -> None:
        self.next.disabled = any(b.value is None for b in self.buttons.values())

    def _show(self) -> None:
        if not self.left_over:
            self.heading.value, self.children = "<b>That was all of them. Thank you.</b>", [self.heading]
            return
        subject, *sides = self.left_over[0]
        for picture, method in zip(self.pictures, sides, strict=True):
            picture.value = _gif(self.videos[subject][method], self.fps)
        for button in self.buttons.values():
            button.value = None
        self.heading.value = f"<b>{subject}</b>: {len(self.left_over)} to go"  # last: all below it is in its place

    def _save(self, _) -> None:
        if self.next.disabled:  # the second click of a double click
            return
        subject, left, right = self.left_over.pop(0)
        new = [Answer(subject, name, left, right, button.value) for name, button in self.buttons.items()]
        known = read_answers(self.path) if self.path.exists() else []
        write_answers([*known, *new], self.path)
        self._show()


def write_answers(answers: Sequence[Answer], path: str | Path) -> None:
    """One line each under a heading, whole or not at all."""
    with whole_file(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([f.name for f in fields(Answer)])
        writer.writerows(astuple(a) for a in answers)


def read_answers(path: str | Path) -> list[Answer]:
    """What `write_answers` wrote.

    Raises:
        ValueError: other columns, another question, or another answer.
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    if head != [f.name for f in fields(Answer)]:
        raise ValueError(
            f"{path} has the columns {', '.join(head)}; expected {', '.join(f.name for f in fields(Answer))}."
        )
    answers = [Answer(*row) for row in rows]
    for number, a in enumerate(answers, 2):
        if a.question not in QUESTIONS or a.answer not in (LEFT, RIGHT, JUNK):
            raise ValueError(
                f"{path}, line {number} answers {a.question!r} by {a.answer!r}; expected a question of the study."
            )
    return answers


def binomial(wins: int, n: int) -> float:
    """Probability of a split at least as uneven as this if both were as likely; two-sided.

    >>> binomial(9, 10), binomial(5, 10)
    (0.021484375, 1.0)
    """
    uneven = max(wins, n - wins)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(uneven, n + 1)) / 2**n)


def bradley_terry(wins: Float[Tensor, "m m"], steps: int = 1000) -> Float[Tensor, " m"]:
    """Strengths that make wins (row over column) likeliest, with sum 1; by Hunter's 2004 algorithm.

    Raises:
        ValueError: a method that never won or never lost, whose strength has no bound.

    >>> bradley_terry(torch.tensor([[0.0, 3.0], [1.0, 0.0]]))
    tensor([0.7500, 0.2500], dtype=torch.float64)
    """
    wins = wins.double()
    if (wins.sum(0) == 0).any() or (wins.sum(1) == 0).any():
        raise ValueError(f"wins is {wins.tolist()}; expected every method to have won and lost at least once.")
    games, strength = wins + wins.T, torch.full((len(wins),), 1 / len(wins), dtype=torch.float64)
    for _ in range(steps):
        strength = wins.sum(1) / (games / (strength[:, None] + strength)).sum(1)
        strength = strength / strength.sum()
    return strength


def summary(answers: Sequence[Answer], question: str) -> dict[tuple[str, str], tuple[int, int, int, float]]:
    """Of each pair of methods: wins of the first, wins of the second, junk, and the binomial test of the wins."""
    found: dict[tuple[str, str], list[str | None]] = {}
    for a in answers:
        if a.question == question:
            found.setdefault(tuple(sorted((a.left, a.right))), []).append(a.winner)
    counted = {}
    for pair, winners in sorted(found.items()):
        one, two = (winners.count(name) for name in pair)
        counted[pair] = one, two, winners.count(None), binomial(one, one + two)
    return counted


@dataclass(frozen=True)
class Summary:
    """Sum up the answers of a user study."""

    answers: Positional[Path]
    """The CSV file that the page wrote."""

    def run(self) -> None:
        """Print a table: for each question, every pair of methods."""
        answers, rows = read_answers(self.answers), []
        for question in QUESTIONS:
            for (one, two), (first, second, junk, p) in summary(answers, question).items():
                rows.append([question, f"{one} : {two}", f"{first} : {second}", str(junk), f"{p:.3f}"])
        print(table(["question", "methods", "wins", JUNK, "p, two-sided"], rows))


def _gif(video: Float[Tensor, "t 3 h w"], fps: float) -> bytes:
    frames = rearrange(video.detach().cpu(), "t c h w -> t h w c").mul(255).round().byte().numpy()
    pictures = [Image.fromarray(frame).resize((256, 256 * frame.shape[0] // frame.shape[1]), 0) for frame in frames]
    file = BytesIO()
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0)
    return file.getvalue()


if __name__ == "__main__":
    program(Summary)
