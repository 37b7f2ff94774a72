"""Run by Blender's Python, never imported: renders the frames of a job that `rasterizer.py` beside it describes.

    python blender_render.py job.json frames.npz

The job holds `asset` (a .glb with one clip), `times_s` (t seconds, evenly spaced), `c2w` (v camera-to-world matrices),
`fov_deg`, `size`, `oversample` and `threads`. The frames come back as arrays:

    rgba     (v, t, h, w, 4)  linear light, multiplied by alpha
    depth    (v, t, h, w, 1)  along the viewing axis, 0 where there is nothing
    flow     (v, t, h, w, 2)  to the next time, in pixels, x right and y down
    visible  (v, t, h, w, 1)  whether the same surface is seen at the next time
    seconds  (2,)             of processor time: until the first frame, and of all frames

A pixel is `oversample` x `oversample` rays on a regular grid: colour is their mean, the rest belongs to the middle one.
Blender ignores the tangents of cubic splines and turns rotations in a straight line: compare clips with dense keys.
"""

import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import bpy
import numpy as np
from mathutils import Matrix, Vector

sys.path.append(str(Path(bpy.utils.resource_path("LOCAL"), "python/lib/python3.11/site-packages")))
import OpenImageIO as oiio  # Blender brings it along, there

Y_UP = Matrix(((1, 0, 0, 0), (0, 0, 1, 0), (0, -1, 0, 0), (0, 0, 0, 1)))  # the importer made glTF's y-up world z-up
TO_LIGHT, SUN, SKY = (-0.5, 1.0, 0.8), 2.0, 0.5


def load(asset: str, times_s: list[float]) -> None:
    """Start an empty scene with the asset in it, in which frame i shows time i."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.import_scene.gltf(filepath=asset, disable_bone_shape=True)
    fps, start, step = bpy.context.scene.render.fps, times_s[0], times_s[1] - times_s[0]
    strips = (strip for action in bpy.data.actions for layer in action.layers for strip in layer.strips)
    for curve in (curve for strip in strips for bag in strip.channelbags for curve in bag.fcurves):
        for key in curve.keyframe_points:
            key.co.x = (key.co.x / fps - start) / step
        curve.update()


def vertices() -> np.ndarray:
    """Positions (n, 3) in the world of all that is rendered at the current frame."""
    graph, positions = bpy.context.evaluated_depsgraph_get(), []
    for thing in (o for o in bpy.context.scene.objects if o.type == "MESH" and not o.hide_render):
        posed = thing.evaluated_get(graph)
        mesh, to_world = posed.to_mesh(), np.array(posed.matrix_world)
        local = np.empty((len(mesh.vertices), 3), np.float32)
        mesh.vertices.foreach_get("co", local.reshape(-1))
        positions.append(local @ to_world[:3, :3].T + to_world[:3, 3])
        posed.to_mesh_clear()
    return np.concatenate(positions)


def fit_unit_ball(n_times: int) -> None:
    """Stand the scene y-up, its bounding box over all times centred, its farthest vertex at distance 1."""
    scene, points = bpy.context.scene, []
    for frame in range(n_times):
        scene.frame_set(frame)
        points.append(vertices())
    points = np.concatenate(points)
    centre = (points.min(0) + points.max(0)) / 2
    stage = add("stage", None)
    stage.matrix_world = (
        Matrix.Scale(1 / np.linalg.norm(points - centre, axis=1).max(), 4) @ Y_UP @ Matrix.Translation(-Vector(centre))
    )
    for root in [o for o in scene.objects if o.parent is None and o != stage]:
        root.parent = stage


def add(name: str, data: bpy.types.ID | None) -> bpy.types.Object:
    """A new object in the scene."""
    thing = bpy.data.objects.new(name, data)
    bpy.context.scene.collection.objects.link(thing)
    return thing


def light() -> None:
    """A sun and an even sky, in place of any lamps in the asset."""
    scene = bpy.context.scene
    for lamp in (o for o in scene.objects if o.type == "LIGHT"):
        lamp.hide_render = True
    sun = add("sun", bpy.data.lights.new("sun", "SUN"))
    sun.data.energy = SUN
    sun.matrix_world = Vector(TO_LIGHT).to_track_quat("Z", "Y").to_matrix().to_4x4()
    scene.world = bpy.data.worlds.new("sky")
    scene.world.use_nodes = True
    sky = scene.world.node_tree.nodes["Background"].inputs
    sky["Color"].default_value, sky["Strength"].default_value = (1, 1, 1, 1), SKY


def set_up_cycles(size: int, fov_deg: float, threads: int) -> None:
    """One ray through the middle of each of size x size pixels, no background, and the passes wanted."""
    scene = bpy.context.scene
    render, cycles, layer = scene.render, scene.cycles, bpy.context.view_layer
    render.engine = "CYCLES"
    render.threads_mode, render.threads = "FIXED", threads
    render.resolution_x = render.resolution_y = size
    render.film_transparent = render.use_persistent_data = True
    render.image_settings.file_format, render.image_settings.color_depth = "OPEN_EXR_MULTILAYER", "32"
    cycles.samples, cycles.seed, cycles.max_bounces, cycles.filter_width = 1, 0, 2, 0.01
    cycles.use_adaptive_sampling = cycles.use_denoising = False
    layer.use_pass_z = layer.use_pass_vector = True
    scene.camera = add("camera", bpy.data.cameras.new("camera"))
    scene.camera.data.angle, scene.camera.data.clip_start = np.radians(fov_deg), 0.01


def render(c2w: list[list[float]]) -> tuple[np.ndarray, ...]:
    """The current frame from one camera: rgba, depth, and how its surface moves to the next frame and to the last."""
    scene = bpy.context.scene
    scene.camera.matrix_world = Matrix(c2w)
    with TemporaryDirectory() as folder:
        scene.render.filepath = str(Path(folder, "frame.exr"))
        bpy.ops.render.render(write_still=True)
        file = oiio.ImageInput.open(scene.render.filepath)
        names, pixels = file.spec().channelnames, file.read_image("float")
        file.close()
    passes = {name.split(".", 1)[1]: pixels[..., i] for i, name in enumerate(names)}
    rgba = np.stack([passes[f"Combined.{c}"] for c in "RGBA"], -1)
    depth = np.where(passes["Depth.Z"] < 1e9, passes["Depth.Z"], 0)
    x_last, y_last, x_next, y_next = (passes[f"Vector.{c}"] for c in "XYZW")  # y up; "next" points back from there
    return rgba, depth, np.stack([-x_next, y_next], -1), np.stack([x_last, -y_last], -1)


def still_seen(now: tuple[np.ndarray, ...], later: tuple[np.ndarray, ...], k: int) -> np.ndarray:
    """Whether each pixel's middle, moved to the later render and back, returns to within a quarter of a pixel."""
    (_, depth, forward, _), (_, later_depth, _, backward) = now, later
    n, middle = len(depth), np.arange(k // 2, len(depth), k)
    depth, forward = depth[middle][:, middle], forward[middle][:, middle]
    to = np.rint(np.stack(np.meshgrid(middle, middle), -1) + forward).astype(int)
    inside = ((to >= 0) & (to < n)).all(-1)
    x, y = np.moveaxis(to.clip(0, n - 1), -1, 0)
    returns = np.linalg.norm(forward + backward[y, x], axis=-1) < 0.25 * k
    return inside & returns & ((depth > 0) == (later_depth[y, x] > 0))


def main(job_path: str, frames_path: str) -> None:
    job = json.loads(Path(job_path).read_text(encoding="utf-8"))
    n_times, k, size = len(job["times_s"]), job["oversample"], job["size"]
    load(job["asset"], job["times_s"])
    fit_unit_ball(n_times)
    light()
    set_up_cycles(size * k, job["fov_deg"], job["threads"])
    started = time.process_time()

    grid = (len(job["c2w"]), n_times, size, size)
    frames = {"rgba": np.zeros((*grid, 4), np.float32), "depth": np.zeros((*grid, 1), np.float32),
              "flow": np.zeros((*grid, 2), np.float32), "visible": np.ones((*grid, 1), bool)}  # fmt: skip
    now = []
    for t in range(n_times):
        bpy.context.scene.frame_set(t)
        later = [render(c2w) for c2w in job["c2w"]]
        for v, (rgba, depth, _, _) in enumerate(later):
            frames["rgba"][v, t] = rgba.reshape(size, k, size, k, 4).mean((1, 3))
            frames["depth"][v, t, ..., 0] = depth[k // 2 :: k, k // 2 :: k]
            if t:
                frames["flow"][v, t - 1] = now[v][2][k // 2 :: k, k // 2 :: k] / k
                frames["visible"][v, t - 1, ..., 0] = still_seen(now[v], later[v], k)
        now = later
    np.savez(frames_path, seconds=[started, time.process_time() - started], **frames)


if __name__ == "__main__":
    main(*sys.argv[1:])
