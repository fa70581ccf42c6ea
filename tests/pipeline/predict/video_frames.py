"""Read what a job wrote."""

import av
import numpy as np


def read_frames(path):
    """Return times in seconds and upright pixels of all frames of a video."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    turned = [np.rot90(f.to_ndarray(format="rgb24"), round(f.rotation / 90) % 4) for f in frames]
    return [float(frame.time) for frame in frames], turned
