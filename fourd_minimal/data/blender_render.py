"""Run by Blender's Python, never imported: renders every frame of a job that `gltf.render_asset` describes.

    python blender_render.py job.json frames.npz

The job holds `asset` (a glTF file with one clip), `times_s` (t seconds, evenly spaced), `c2w` (v camera-to-world matrices), `fov_deg`,
`size` and `oversample`. The frames come back as `rgba` (v, t, h, w, 4), linear and premultiplied; `depth` (v, t, h, w) along the
viewing axis, 0 where there is nothing; `flow` (v, t, h, w, 2) in pixels (x right, y down) to the next time.

The asset is moved into the unit ball of a y-up world first, once for all times, so the cameras are used as they come. Each pixel is
`oversample` (odd) x `oversample` rays on a regular grid: colour is their mean, depth and flow belong to the middle one.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import bpy
import numpy as np
from mathutils import Matrix, Vector

sys.path.append(str(Path(bpy.utils.resource_path("LOCAL"), "python/lib/python3.11/site-packages")))
import OpenImageIO as oiio  # noqa: E402  (Blender ships it there)

Y_UP = Matrix(((1, 0, 0, 0), (0, 0, 1, 0), (0, -1, 0, 0), (0, 0, 0, 1)))  # the importer turns glTF's y-up into Blender's z-up


def load(asset: str, times_s: list[float]) -> None:
    """An empty scene with the asset in it, where frame i is time i."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.import_scene.gltf(filepath=asset, disable_bone_shape=True)
    fps, start, step = bpy.context.scene.render.fps, times_s[0], times_s[1] - times_s[0]
    strips = [strip for action in bpy.data.actions for layer in action.layers for strip in layer.strips]
    for curve in (curve for strip in strips for bag in strip.channelbags for curve in bag.fcurves):
        for key in curve.keyframe_points:
            key.co.x = (key.co.x / fps - start) / step
        curve.update()


def vertices() -> np.ndarray:
    """(n, 3) positions in the world at the current frame, of every mesh that is rendered."""
    graph = bpy.context.evaluated_depsgraph_get()
    found = []
    for instance in (o.evaluated_get(graph) for o in bpy.context.scene.objects if o.type == "MESH" and not o.hide_render):
        mesh = instance.to_mesh()
        local = np.empty(3 * len(mesh.vertices), np.float32)
        mesh.vertices.foreach_get("co", local)
        matrix = np.array(instance.matrix_world)
        found.append(local.reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3])
        instance.to_mesh_clear()
    return np.concatenate(found)


def fit_unit_ball(n_times: int) -> None:
    """Turn the scene y-up, centre its bounding box over all times and scale its farthest vertex to distance 1."""
    scene, points = bpy.context.scene, []
    for frame in range(n_times):
        scene.frame_set(frame)
        points.append(vertices())
    points = np.concatenate(points)
    centre = (points.min(0) + points.max(0)) / 2
    radius = np.linalg.norm(points - centre, axis=1).max()
    stage = bpy.data.objects.new("stage", None)
    stage.matrix_world = Matrix.Scale(1 / radius, 4) @ Y_UP @ Matrix.Translation(-Vector(centre))
    for root in [o for o in scene.objects if o.parent is None]:
        root.parent = stage
    scene.collection.objects.link(stage)


def light(sun: float = 1.6, ambient: float = 0.55) -> None:
    """A sun from above the first cameras' left shoulder, and an even sky."""
    scene = bpy.context.scene
    for lamp in (o for o in scene.objects if o.type == "LIGHT"):
        lamp.hide_render = True
    lamp = bpy.data.objects.new("sun", bpy.data.lights.new("sun", "SUN"))
    lamp.data.energy, lamp.data.angle = sun, 0.1
    lamp.matrix_world = Vector((-0.5, 1.0, 0.8)).to_track_quat("Z", "Y").to_matrix().to_4x4()
    scene.collection.objects.link(lamp)
    scene.world = bpy.data.worlds.new("sky")
    scene.world.use_nodes = True
    scene.world.node_tree.nodes["Background"].inputs["Color"].default_value = (1, 1, 1, 1)
    scene.world.node_tree.nodes["Background"].inputs["Strength"].default_value = ambient


def set_up_cycles(size: int, fov_deg: float, oversample: int) -> None:
    """One ray through the middle of each fine pixel, a transparent background, and the passes we want."""
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples, scene.cycles.seed = 1, 0
    scene.cycles.use_adaptive_sampling = scene.cycles.use_denoising = False
    scene.cycles.filter_width = 0.01
    scene.cycles.max_bounces = 2
    scene.render.film_transparent = True
    scene.render.resolution_x = scene.render.resolution_y = size * oversample
    scene.render.use_persistent_data = True
    scene.render.image_settings.file_format = "OPEN_EXR_MULTILAYER"
    scene.render.image_settings.color_depth = "32"
    layer = bpy.context.view_layer
    layer.use_pass_z = layer.use_pass_vector = True
    scene.camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene.camera.data.sensor_fit, scene.camera.data.angle = "VERTICAL", np.radians(fov_deg)
    scene.camera.data.clip_start, scene.camera.data.clip_end = 0.01, 1000.0
    scene.collection.objects.link(scene.camera)


def render(folder: str) -> dict[str, np.ndarray]:
    """The passes of the current frame, by channel name, each (h, w)."""
    bpy.context.scene.render.filepath = str(Path(folder, "frame.exr"))
    bpy.ops.render.render(write_still=True)
    file = oiio.ImageInput.open(bpy.context.scene.render.filepath)
    names, pixels = file.spec().channelnames, file.read_image("float")
    file.close()
    return {name.split(".", 1)[1]: pixels[..., i] for i, name in enumerate(names)}


def main(job: str, out: str) -> None:
    job = json.loads(Path(job).read_text())
    k, size, n_times = job["oversample"], job["size"], len(job["times_s"])
    load(job["asset"], job["times_s"])
    fit_unit_ball(n_times)
    light()
    set_up_cycles(size, job["fov_deg"], k)
    rgba, depth, flow = [], [], []
    with TemporaryDirectory() as folder:
        for c2w in job["c2w"]:
            bpy.context.scene.camera.matrix_world = Matrix(c2w)
            for frame in range(n_times):
                bpy.context.scene.frame_set(frame)
                passes = render(folder)
                if not rgba:
                    print({n: (p.min(), p.max()) for n, p in passes.items()})
                colour = np.stack([passes[f"Combined.{c}"] for c in "RGBA"], -1)
                rgba.append(colour.reshape(size, k, size, k, 4).mean((1, 3)))
                depth.append(passes["Depth.Z"][k // 2 :: k, k // 2 :: k])
                flow.append(np.stack([passes[f"Vector.{c}"] for c in "XYZW"], -1)[k // 2 :: k, k // 2 :: k])
    grid = (len(job["c2w"]), n_times, size, size)
    depth = np.stack(depth).reshape(grid)
    np.savez(out, rgba=np.stack(rgba).reshape(*grid, 4), depth=np.where(depth > 1e9, 0, depth), flow=np.stack(flow).reshape(*grid, 4) / k)


if __name__ == "__main__":
    main(*sys.argv[1:])
