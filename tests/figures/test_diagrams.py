"""Diagrams are drawn: each is written as a picture of its size that shows something."""

from PIL import Image

from figures import diagrams


def test_pictures_are_written(tmp_path):
    diagrams.Diagrams(tmp_path).run()
    names = {"two_streams", "motion_module", "sds_loop"}
    assert {file.name for file in tmp_path.iterdir()} == {f"{name}.png" for name in names}
    for file in tmp_path.iterdir():
        with Image.open(file) as picture:
            assert picture.size == (990, 550) and len(picture.convert("L").getcolors()) > 100
