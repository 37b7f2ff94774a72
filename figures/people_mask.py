"""Run by MediaPipe's Python, never imported: where people are in frames.

    python people_mask.py frames.npy alpha.npy

Frames are (t, h, w, 3) bytes; alpha comes back as (t, h, w) floats in [0, 1], 0 where nobody is found.
"""

import sys

import mediapipe
import numpy as np


def main(frames_path: str, alpha_path: str) -> None:
    """Every frame by itself."""
    frames = np.load(frames_path, allow_pickle=False)
    alpha = np.zeros(frames.shape[:3], np.float32)
    options = dict(static_image_mode=True, model_complexity=1, enable_segmentation=True)
    with mediapipe.solutions.pose.Pose(**options) as pose:
        for frame, out in zip(frames, alpha):  # noqa: B905 (this Python may be old)
            found = pose.process(frame).segmentation_mask
            if found is not None:
                out[:] = found
    np.save(alpha_path, alpha)


main(*sys.argv[1:])
