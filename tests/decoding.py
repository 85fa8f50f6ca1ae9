"""Reading video files back, to see what was written."""

import av
import numpy as np


def decode(path):
    """All frames, ``[T, height, width, 3]`` uint8."""
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def video_info(path):
    """The codec, the pixel format, the frames per second and the duration in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        return {
            "codec": context.name,
            "pixel_format": context.pix_fmt,
            "fps": float(stream.average_rate),
            "duration": container.duration / 1e6,
        }
