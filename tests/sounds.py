"""Clips of voices, in the containers of phones and browsers."""

import io

import av
import numpy as np


def contained(samples: np.ndarray, rate: int, container: str, codec: str, **options: str) -> bytes:
    """(frames, channels), as a phone or a browser records it; `options` are the container's."""
    file = io.BytesIO()
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    with av.open(file, "w", format=container, options=options) as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T, np.float32), "fltp", layout)
        frame.sample_rate = rate
        out.mux([*stream.encode(frame), *stream.encode(None)])
    return file.getvalue()
