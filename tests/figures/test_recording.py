"""Calibrated recordings: lenses as OpenCV knows them, poses in our convention, a ball where it was."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from refused import refused
from torch.testing import assert_close

from figures import people
from figures.people import people_alpha, people_python
from figures.recording import (
    Y_UP,
    Camera,
    look_at,
    meeting_point,
    read_calibration,
    read_recording,
    see_through,
)
from fourd_minimal.cameras import circular_trajectory, project
from fourd_minimal.data.video import write_video

REAL = Path(__file__).parents[3] / "shared/data/multiview/pose2sim_Demo_SinglePerson"
needs_real = pytest.mark.skipif(not REAL.exists(), reason="the four-camera recording is not here")
needs_people = pytest.mark.skipif(not people_python().is_file(), reason=f"no MediaPipe; {people.PEOPLE_ENVIRONMENT}")


def calibration(cameras, size):
    """The cameras as Qualisys would write them down."""
    entries = []
    for camera in cameras:
        turn, place = (Y_UP.mT @ camera.c2w[:3, :3]).mT, Y_UP.mT @ camera.c2w[:3, 3] * 1000
        names = [f"r{i}{j}" for i in (1, 2, 3) for j in (1, 2, 3)]
        pose = dict(zip((*names, *"xyz"), (*turn.flatten().tolist(), *place.tolist()), strict=True))
        k1, k2, p1, p2 = camera.distortion.tolist()
        (fx, fy), (cx, cy) = (64 * camera.focal).tolist(), (64 * camera.centre).tolist()
        lens = dict(focalLengthU=fx, focalLengthV=fy, centerPointU=cx, centerPointV=cy)
        lens |= dict(radialDistortion1=k1, radialDistortion2=k2, tangentalDistortion1=p1, tangentalDistortion2=p2)
        video = dict(left=0, top=0, right=size[1] - 1, bottom=size[0] - 1)
        parts = (
            f"<{tag} " + " ".join(f'{k}="{v}"' for k, v in values.items()) + "/>"
            for tag, values in (("transform", pose), ("intrinsic", lens), ("fov_video", video))
        )
        entries.append(f'<camera serial="{camera.name}">{"".join(parts)}</camera>')
    return f"<calibration><cameras>{''.join(entries)}</cameras></calibration>"


def cameras(n=3, size=(64, 96)):
    h, w = size
    c2w = circular_trajectory(torch.linspace(0, 200, n), 15.0, 4.0)
    lens = torch.tensor([90.0, 92.0]), torch.tensor([w / 2 + 3, h / 2 - 2]), torch.tensor([-0.05, 0.1, 0.04, -0.03])
    return [Camera(f"cam{i}", pose, *lens, size) for i, pose in enumerate(c2w)]


def test_a_calibration_comes_back(tmp_path):
    (tmp_path / "Calib.qca.txt").write_text(calibration(cameras(), (64, 96)))
    for ours, read in zip(cameras(), read_calibration(tmp_path / "Calib.qca.txt"), strict=True):
        assert read.name == ours.name
        for field in ("c2w", "focal", "centre", "distortion"):
            assert_close(getattr(read, field), getattr(ours, field), atol=1e-4, rtol=1e-4)


def test_cameras_that_look_at_a_point_are_a_circle_of_them():
    c2w = circular_trajectory(torch.linspace(0, 300, 5), 25.0, 3.0)
    assert_close(look_at(c2w[:, :3, 3], torch.zeros(3)), c2w, atol=1e-5, rtol=0)
    target = torch.tensor([0.3, -0.2, 0.5])
    moved = look_at(c2w[:, :3, 3], target)
    assert_close(meeting_point(moved), target, atol=1e-4, rtol=0)


def test_see_through_a_lens_as_opencv_does():
    """An independent undistortion and turn, by OpenCV, of the same smooth picture."""
    cv2 = pytest.importorskip("cv2")
    camera = cameras()[0]
    size, fov_deg = (40, 40), 30.0
    c2w = look_at(camera.c2w[None, :3, 3], torch.tensor([0.2, 0.1, 0.0]))[0]
    y, x = np.mgrid[0:64, 0:96].astype(np.float32)
    picture = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)], -1) / 2 + 0.5
    ours = see_through(torch.from_numpy(picture).permute(2, 0, 1)[None].float(), camera, c2w, fov_deg, size)[0][0]

    flip = np.diag([1.0, -1.0, -1.0])  # OpenCV: y down, z ahead
    turn = flip @ (c2w[:3, :3].T @ camera.c2w[:3, :3]).double().numpy() @ flip
    (fx, fy), (cx, cy) = camera.focal.tolist(), (camera.centre - 0.5).tolist()  # pixel centres are whole numbers there
    f = 40 / (2 * math.tan(math.radians(15)))
    lens, new = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), np.array([[f, 0, 19.5], [0, f, 19.5], [0, 0, 1]])
    maps = cv2.initUndistortRectifyMap(lens, camera.distortion.double().numpy(), turn, new, size, cv2.CV_32FC1)
    theirs = cv2.remap(picture.astype(np.float32), *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    assert_close(ours, torch.from_numpy(theirs).permute(2, 0, 1), atol=5e-3, rtol=0)


@pytest.fixture(scope="module")
def ball(tmp_path_factory):
    """A bright ball that moves before dark walls, recorded by three cameras; where it was, y up, in metres."""
    folder, size = tmp_path_factory.mktemp("recording"), (64, 96)
    (folder / "Calib.qca.txt").write_text(calibration(cameras(), size))
    places = torch.stack([torch.linspace(-0.4, 0.4, 4), torch.full((4,), 0.2), torch.zeros(4)], -1)
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    for camera in cameras():
        local = (places - camera.c2w[:3, 3]) @ camera.c2w[:3, :3]
        u = local[:, :2] / -local[:, 2:] * torch.tensor([1.0, -1.0])
        r2 = u.square().sum(-1, keepdim=True)
        k1, k2, p1, p2 = camera.distortion
        twist = torch.stack(
            [
                2 * p1 * u[:, 0] * u[:, 1] + p2 * (r2[:, 0] + 2 * u[:, 0] ** 2),
                p1 * (r2[:, 0] + 2 * u[:, 1] ** 2) + 2 * p2 * u[:, 0] * u[:, 1],
            ],
            -1,
        )
        at = (u * (1 + k1 * r2 + k2 * r2 * r2) + twist) * camera.focal + camera.centre
        near = ((x - at[:, 0, None, None]) ** 2 + (y - at[:, 1, None, None]) ** 2) < 25
        write_video(0.1 + 0.8 * near[:, None].float().expand(-1, 3, -1, -1), folder / f"{camera.name}.mp4")
    return folder, places


def test_a_recording_shows_the_ball_where_it_was(ball):
    folder, places = ball
    target = torch.tensor([0.1, 0.1, 0.0])
    bright = lambda frames: (frames.mean(1, keepdim=True) - 0.2).clamp(0, 1)  # noqa: E731
    seen = read_recording(folder, 32, 4, tuple(target.tolist()), 1.5, bright, oversample=3)
    assert seen.rgb.shape == (3, 4, 3, 32, 32) and seen.alpha.shape == (3, 4, 1, 32, 32)
    assert seen.rgb.min() >= 0 and seen.rgb.max() <= 1 and (seen.rgb[:, :, :, 0, 0] > 0.95).all()  # white behind
    y, x = torch.meshgrid(torch.arange(32) + 0.5, torch.arange(32) + 0.5, indexing="ij")
    mass = seen.alpha[:, :, 0]
    middle = torch.stack([(mass * a).sum((-2, -1)) / mass.sum((-2, -1)) for a in (x, y)], -1)
    expected, _ = project((places - target) / 1.5, seen.c2w[:, None], seen.fov_deg, (32, 32))
    assert_close(middle, expected, atol=0.25, rtol=0)


def test_what_is_missing_is_named(ball, tmp_path):
    refused(lambda: read_recording(tmp_path), "path", "Calib.qca.txt")
    (tmp_path / "Calib.qca.txt").write_text("<calibration/>")
    refused(lambda: read_recording(tmp_path), "path", "Calib.qca.txt", "camera")
    (tmp_path / "Calib.qca.txt").write_text('<calibration><camera serial="cam0"/></calibration>')
    refused(lambda: read_recording(tmp_path), "path", "Calib.qca.txt", "transform")
    refused(lambda: read_recording(ball[0], extent=9.0), "extent", 9)
    (tmp_path / "Calib.qca.txt").write_text((ball[0] / "Calib.qca.txt").read_text())
    refused(lambda: read_recording(tmp_path), "folder", "cam0.mp4")


def test_a_video_of_another_size_is_refused(ball, tmp_path):
    (tmp_path / "Calib.qca.txt").write_text(calibration(cameras(), (64, 96)))
    for camera in cameras():
        write_video(torch.zeros(4, 3, 96, 96), tmp_path / f"{camera.name}.mp4")
    refused(lambda: read_recording(tmp_path, 16, 2, oversample=1), "cam0.mp4", "96x96")


def test_what_was_not_recorded_is_not_the_person(ball):
    """Everything counts as foreground, and yet what lies outside of the video stays white and transparent."""
    everything = lambda frames: torch.ones(len(frames), 1, *frames.shape[-2:])  # noqa: E731
    seen = read_recording(ball[0], 32, 2, (0.1, 0.1, 0.0), 3.0, everything, oversample=1)
    assert seen.alpha[:, :, :, 0].max() == 0 and (seen.rgb[:, :, :, 0] == 1).all()
    assert seen.alpha[:, :, :, 16, 16].min() == 1 and seen.rgb[:, :, :, 16, 16].max() < 0.99


def test_people_without_their_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("FOURD_PEOPLE_PYTHON", str(tmp_path / "python"))
    refused(lambda: people_alpha(torch.zeros(1, 3, 8, 8)), people.PEOPLE_ENVIRONMENT, error=FileNotFoundError)
    monkeypatch.setenv("FOURD_PEOPLE_PYTHON", sys.executable)  # a Python without MediaPipe
    refused(lambda: people_alpha(torch.zeros(1, 3, 8, 8)), "MediaPipe", "ModuleNotFoundError")


@needs_real
def test_the_real_cameras_look_at_one_place():
    c2w = torch.stack([camera.c2w for camera in read_calibration(REAL / "Calib.qca.txt")])
    middle = meeting_point(c2w)
    away = middle - c2w[:, :3, 3]
    ahead = (away * -c2w[:, :3, 2]).sum(-1)
    assert (ahead > 3).all() and ((away.square().sum(-1) - ahead**2).sqrt() < 0.11).all()


@needs_real
@needs_people
def test_the_real_person_stands_in_every_frame():
    seen = read_recording(REAL, 24, 2, (-0.94, 0.85, 0.02), oversample=16)
    covered = seen.alpha.mean((2, 3, 4))
    assert (covered > 0.02).all() and (covered < 0.2).all()
    assert (seen.rgb[..., 0, 0] > 0.95).all()  # the room became white
