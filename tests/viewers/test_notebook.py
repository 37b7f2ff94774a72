"""The start of a notebook: what it prints and sets, and the alternative texts of pictures."""

import re
import subprocess
import sys
from importlib.util import find_spec
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from refused import refused

from fourd_minimal.viewers import notebook


@pytest.fixture(autouse=True)
def own_style():
    with plt.rc_context():
        yield
    plt.close("all")


def test_sizes_are_those_of_the_preset(monkeypatch, capsys):
    sizes = dict(smoke=dict(scenes=2), otherwise=dict(scenes=64))
    for preset, scenes in (("smoke", 2), ("cpu", 64), ("gpu", 64)):
        monkeypatch.setenv("FOURD_PRESET", preset)
        begun = notebook.start(**sizes)
        assert (begun.preset, begun.seed, begun.sizes) == (preset, 0, dict(scenes=scenes))
        said = capsys.readouterr().out
        assert preset in said and torch.__version__ in said
    monkeypatch.setenv("FOURD_PRESET", "huge")
    refused(lambda: notebook.start(**sizes), "FOURD_PRESET", "huge")


def test_the_seed_is_torchs():
    notebook.start({}, {}, seed=3)
    drawn = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(4))


def test_alt_texts_are_titles_and_axes():
    figure, axes = plt.subplots(1, 2)
    figure.suptitle("Both fall")
    for axis in axes:
        axis.set(title="loss\nof one", xlabel="step")
    assert re.search("Both fall.*loss of one.*step", notebook.alt_text(figure)) and notebook.alt_text(plt.figure())


@pytest.mark.skipif(find_spec("IPython") is None, reason="needs IPython: pip install -e '.[notebooks]'")
@pytest.mark.parametrize("kind", [dict, list])
def test_rows_of_pictures_are_shown_with_their_alt_text(kind, monkeypatch):
    from IPython import display

    shown = []
    monkeypatch.setattr(display, "display", shown.append)
    rows = [("truth", torch.zeros(2, 3, 8, 8)), ("made", torch.ones(1, 3, 8, 8))]
    notebook.show(kind(rows), "Black, and a white one.", target=16, headings={0: "first"})
    (image,) = shown
    seen = np.asarray(Image.open(BytesIO(image.data)))
    assert image.alt == "Black, and a white one."
    assert (seen[..., 0] == 0).sum() == 2 * 16 * 16  # two black pictures, of twice the size
    notebook.show([("a ramp", torch.linspace(0, 1, 64).view(1, 1, 8, 8).expand(-1, 3, -1, -1))], "A ramp.", shades=6)
    few = np.unique(np.asarray(Image.open(BytesIO(shown[1].data))))
    assert few.tolist() == [0, 51, 102, 153, 204, 255]


@pytest.mark.skipif(find_spec("IPython") is None, reason="needs IPython: pip install -e '.[notebooks]'")
def test_a_figure_in_a_notebook_keeps_its_alt_text(tmp_path):
    script = tmp_path / "cells.ipy"
    script.write_text("""
%matplotlib inline
import matplotlib.pyplot as plt
from fourd_minimal.viewers.notebook import start
start({}, {}), start({}, {})  # a set-up cell that is run again
figure, axis = plt.subplots()
axis.set(title="Loss falls", xlabel="step")
picture, known = get_ipython().display_formatter.formatters["image/png"].lookup_by_type(type(figure))(figure)
print(len(picture) > 100, known["alt"])
""")
    command = [sys.executable, "-m", "IPython", "--no-banner", "--quick", str(script)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert "True Loss falls. Axes: step." in run.stdout, run.stderr
