"""What holds for every test, and for the notebooks' kernels, which inherit the environment."""

import os

collect_ignore = ["figures/people_mask.py", "tests/benchmarks/blender_render.py"]  # for other Pythons

os.environ.setdefault("FOURD_PRESET", "smoke")
os.environ.setdefault("OMP_NUM_THREADS", str(min(4, os.cpu_count() or 1)))  # more only slow such small tensors
