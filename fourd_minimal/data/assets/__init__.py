"""The inside of `data/gltf.py`: a glTF file is read (document, mesh, reader), posed (animation, pose) and drawn
(surface, rasterizer)."""
