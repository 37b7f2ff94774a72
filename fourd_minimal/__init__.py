"""4D generation, small enough to read: 4Real-Video and 4Diffusion, rebuilt end to end.

Each file beside this one is one idea of the papers and stands alone: copy it and it works.
`data` makes frames, `systems` puts the ideas together, `lab` is for the person experimenting.
"""

__version__ = "0.1.0"
