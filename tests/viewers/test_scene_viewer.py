"""The scene viewer, driven in Chromium: it draws what our renderer draws, orbits, and moves through time."""

import io
import re
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refused import refused

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.systems.deformable_gaussians import DeformableGaussians
from fourd_minimal.viewers.scene_page import save_scene_html
from fourd_minimal.viewers.scene_viewer import SceneViewer

CHROMIUM = "/usr/bin/chromium"
FOV_DEG, SIZE = 36.0, 96
CAMERA = circular_trajectory(20.0, 25.0, 4.0)


@pytest.fixture
def scene():
    """Coloured balls, near and far, that all move to the right."""
    generator = torch.Generator().manual_seed(0)
    points = 0.5 * torch.randn(60, 3, generator=generator)
    found = DeformableGaussians(points, torch.rand(60, 3, generator=generator), torch.full((60,), 0.1), opacity=0.7)
    found.requires_grad_(False)
    found.background.copy_(torch.rand(3, 4, 4, generator=generator))
    found.motion.forward = lambda points, time: time[:, None, None] * torch.tensor([0.8, 0.0, 0.0]).expand(points.shape)
    return found


@pytest.fixture
def open_page(tmp_path):
    """Opens a saved scene in a real browser; `page.errors` collects what went wrong in it."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"needs Chromium at {CHROMIUM}")
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)

        def open_(scene, **options):
            options = {"width": SIZE, "pixel_ratio": 1, **options}
            save_scene_html(scene, tmp_path / "scene.html", CAMERA, FOV_DEG, **options)
            page = browser.new_page(viewport={"width": 700, "height": 700})
            page.errors = []
            page.on("pageerror", lambda error: page.errors.append(str(error)))
            page.on("request", lambda r: r.url.startswith(("file:", "data:")) or page.errors.append(r.url))
            page.goto((tmp_path / "scene.html").as_uri())
            page.wait_for_timeout(300)
            return page

        yield open_
        browser.close()


def on_screen(page):
    """What the canvas shows over its background, `(h, w, 3)` in [0, 1]."""
    shot = page.locator("canvas").screenshot(style="main { margin: 0 !important } canvas { outline: none !important }")
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), dtype=np.float32) / 255


def drawn(scene, c2w, time):
    return scene.render(c2w, FOV_DEG, time, SIZE).rgb.permute(1, 2, 0).numpy()


def camera_of(page):
    return [float(x) for x in page.locator("canvas").get_attribute("data-camera").split(",")]


def test_the_browser_draws_what_the_renderer_draws(scene, open_page):
    page = open_page(scene)
    off = np.abs(on_screen(page) - drawn(scene, CAMERA, 0.0))
    assert off.mean() < 0.005 and off.max() < 0.06
    assert page.errors == []


def test_large_near_balls_off_the_axis_are_drawn_alike(open_page):
    """Where an ellipse is long and tilted, a wrong sign or bound shows."""
    points = torch.tensor([[1.0, 0.9, 0.6], [-1.0, 0.8, 0.4], [-0.9, -1.1, 1.0]])
    found = DeformableGaussians(points, torch.eye(3), torch.tensor([0.5, 0.35, 0.4]), opacity=0.8).requires_grad_(False)
    found.background.fill_(0.2)
    off = np.abs(on_screen(open_page(found)) - drawn(found, CAMERA, 0.0))
    assert off.max() < 0.04


def test_the_slider_moves_through_time(scene, open_page):
    page = open_page(scene)
    before = on_screen(page)
    page.locator("input").fill("0.5")
    page.wait_for_timeout(100)
    after = on_screen(page)
    assert np.abs(after - before).mean() > 0.02
    assert np.abs(after - drawn(scene, CAMERA, 0.5)).mean() < 0.005
    assert page.errors == []


def test_dragging_orbits_and_the_button_goes_back(scene, open_page):
    page = open_page(scene)
    before, start = on_screen(page), camera_of(page)
    box = page.locator("canvas").bounding_box()
    x, y = box["x"] + SIZE / 2, box["y"] + SIZE / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 24, y, steps=4)  # a quarter of the height is a quarter of a turn
    page.mouse.up()
    page.wait_for_timeout(100)
    place = torch.tensor(camera_of(page))
    turned = torch.rad2deg(torch.atan2(place[0], place[2])).item()
    assert abs(turned - (20 - 90)) < 8 and abs(place.norm().item() - 4) < 1e-3
    azimuth, elevation = torch.rad2deg(torch.atan2(place[0], place[2])), torch.rad2deg((place[1] / 4).asin())
    there = drawn(scene, circular_trajectory(azimuth, elevation, 4.0), 0.0)
    assert np.abs(on_screen(page) - there).mean() < 0.005
    page.mouse.wheel(0, 300)
    page.wait_for_timeout(100)
    assert torch.tensor(camera_of(page)).norm() > 4.1
    page.get_by_text("back to the start").click()
    page.wait_for_timeout(100)
    assert np.allclose(camera_of(page), start, atol=1e-4)
    assert np.abs(on_screen(page) - before).mean() < 0.005
    assert page.errors == []


def test_playing_runs_and_stops(scene, open_page):
    page = open_page(scene)
    page.get_by_role("button", name="play time").click()
    page.wait_for_timeout(400)
    assert page.errors == []
    assert 0 < page.locator("input").evaluate("(slider) => slider.valueAsNumber") < 1
    page.get_by_role("button", name="play time").click()
    page.wait_for_timeout(50)
    rest = page.locator("input").evaluate("(slider) => slider.valueAsNumber")
    page.wait_for_timeout(200)
    assert page.locator("input").evaluate("(slider) => slider.valueAsNumber") == rest
    assert page.errors == []


def test_what_travels_is_the_scene(scene):
    viewer = SceneViewer(scene, CAMERA, FOV_DEG, times=3)
    positions = np.stack([np.frombuffer(b64decode(p), "<f4").reshape(-1, 3) for p in viewer._scene["positions"]])
    assert np.allclose(positions, scene.positions(torch.tensor([0.0, 0.5, 1.0])).numpy(), atol=1e-6)
    assert np.allclose(np.frombuffer(b64decode(viewer._scene["radius"]), "<f4"), 0.1)
    with torch.no_grad():
        scene.opacity_logit[:20] = -8  # too faint to be seen
    thin = SceneViewer(scene, CAMERA, FOV_DEG)._scene
    assert len(np.frombuffer(b64decode(thin["radius"]), "<f4")) == 40 and len(thin["positions"]) == 16


def test_the_page_is_whole_and_asks_nothing_of_the_network(scene, tmp_path):
    save_scene_html(scene, tmp_path / "a" / "scene.html", CAMERA, FOV_DEG, title="</script><b>&")
    page = (tmp_path / "a" / "scene.html").read_text()
    assert "<title>&lt;/script&gt;&lt;b&gt;&amp;</title>" in page and page.count("</script>") == 2
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page)
    assert len(page) < 800_000


def test_what_makes_no_sense_is_named(scene):
    refused(lambda: SceneViewer(scene, CAMERA, FOV_DEG, times=0), "times", 0)
    refused(lambda: SceneViewer(scene, CAMERA, FOV_DEG, width=0), "width", 0)
    refused(lambda: SceneViewer(scene, torch.eye(4), FOV_DEG), "camera", "origin")
