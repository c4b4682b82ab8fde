"""A writer of files of the pose-format package, which follows the specification of the format."""

import struct
from collections.abc import Mapping, Sequence

import numpy as np


def pose_file(
    components: Mapping[str, Sequence[str]],
    data: np.ndarray,
    confidence: np.ndarray,
    *,
    version: float = 0.1,
    fps: float = 25,
    size: tuple[int, int] = (200, 100),
) -> bytes:
    """Return the bytes of a file.

    `data`: coordinates in pixels, (frames, people, points, 2 or 3). `confidence`: 0 to 1, (frames,
    people, points). `size`: (width, height) of the image.
    """
    kinds = "XYZC" if data.shape[-1] == 3 else "XYC"

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value.encode())) + value.encode()

    parts = [struct.pack("<f4H", version, *size, 0, len(components))]
    for name, points in components.items():
        parts += [text(name), text(kinds), struct.pack("<3H", len(points), 1, 2)]
        parts += [text(point) for point in points]
        parts += [struct.pack("<2H", 0, 0), struct.pack("<6H", *range(6))]  # limbs and colors
    frames, people = data.shape[:2]
    if version == 0:
        parts.append(struct.pack("<2H", int(fps), frames))
        for points_of_frame, confidence_of_frame in zip(data, confidence):
            parts.append(struct.pack("<H", people))
            for number in range(people):
                known = confidence_of_frame[number, :, None]
                points = np.concatenate([points_of_frame[number], known], axis=-1)
                parts += [struct.pack("<h", number), points.astype("<f4").tobytes()]
        return b"".join(parts)
    kind = "<3H" if version < 0.15 else "<fIH"
    parts.append(struct.pack(kind, int(fps) if version < 0.15 else fps, frames, people))
    parts += [data.astype("<f4").tobytes(), confidence.astype("<f4").tobytes()]
    return b"".join(parts)
