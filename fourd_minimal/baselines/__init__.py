"""The baselines of both papers in small, on our toy priors: each one's idea, in one file.

A video of an object becomes a scene; `optimise_steps(video, model, n_steps, seed)` yields it after every step:

    four_d_fy               score distillation from several teachers, first still, then moving
    consistent_4d           planes in space and time, and an interpolator for what lies between
    dream_gaussian_4d       Gaussians of the first frame, then planes that deform them
    image_dream             4Diffusion without time: every frame on its own

Two videos become a grid of frames; `complete(fixed_view, freeze_time, ...)`:

    independent_columns     a freeze-time video from every frame, each on its own (as with MotionCtrl)
    sequential              attention over views, then over times, in one stream (as SV4D)
    four_real               Gaussians of the freeze-time video, then a deformation (as 4Real): `optimise_steps` again

`optimisation.py` is what those that optimise share. What each leaves out of its paper stands in its header.
"""
