"""What holds for every test, and for the notebooks' kernels, which inherit the environment."""

import os

collect_ignore = ["figures/people_mask.py", "tests/benchmarks/blender_render.py"]  # for other Pythons

os.environ.setdefault("FOURD_PRESET", "smoke")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side, and more only slow such small tensors
os.environ.setdefault("PYTHONHASHSEED", "0")  # the processes agree on the order of sets
