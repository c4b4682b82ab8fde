"""Files of keypoints: NumPy's .npz, and .pose of the pose-format package.

The files are untrusted: no pickles, and sizes are checked before anything is allocated.

A `.npz` has `keypoints`, (t, k, 3) with x, y and confidence, or (t, k, 2) with x and y, and
optionally `confidence` (t, k), `fps`, `size` (width and height in pixels, if x and y are in pixels
and not in shares of the image), `points` (k names) and `layout` (a name).
"""

import dataclasses
import math
import os
import stat
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float, Shaped

from signvit_jax.data.keypoints import HOLISTIC, MEDIAPIPE_POSE, KeypointLayout

EXTENSIONS = (".npz", ".pose")
MAX_BYTES = 1 << 30
MAX_NUMBERS = 1 << 28  # in an array
MAX_POINTS = 2000
# Components of .pose files that are left out: a mesh that has no sides by name, and points in
# meters.
_LEFT_OUT = ("FACE_LANDMARKS", "POSE_WORLD_LANDMARKS")
_VERSIONS = (0.0, 0.1, 0.2)


class KeypointFileError(Exception):
    """A file of keypoints that cannot be used; the message says why."""


@dataclasses.dataclass(frozen=True)
class KeypointFile:
    """Keypoints of a video."""

    # x and y in shares of the image, and the confidence; as `stored_keypoints` takes them.
    points: Float[np.ndarray, "n k 3"]
    layout: KeypointLayout
    fps: float | None = None  # None: not in the file


def read_keypoint_file(path: str | os.PathLike) -> KeypointFile:
    """Read a file of one of EXTENSIONS. Raises KeypointFileError."""
    try:
        with _open(path) as file:
            content = _read_pose(file) if Path(path).suffix.lower() == ".pose" else _read_npz(file)
    except KeypointFileError as error:
        raise KeypointFileError(f"{Path(path).name}: {error}") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, struct.error) as error:
        raise KeypointFileError(f"{Path(path).name} cannot be read: {error}") from error
    names = content.layout.points
    if len(set(names)) < len(names):
        raise KeypointFileError(f"{Path(path).name}: two of its points have the same name")
    return content


def _open(path: str | os.PathLike) -> BinaryIO:
    """Open a regular file; a pipe cannot block. Raises KeypointFileError and OSError."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
        file.close()
        raise KeypointFileError(f"not a regular file of at most {MAX_BYTES} bytes")
    return file


# --- .npz ---


def _read_npz(file: BinaryIO) -> KeypointFile:
    with zipfile.ZipFile(file) as archive:
        arrays = {
            name: _array(archive, name)
            for name in ("keypoints", "confidence", "fps", "size", "points", "layout")
            if f"{name}.npy" in archive.namelist()
        }
    points = arrays.get("keypoints")
    if points is None:
        raise KeypointFileError("it has no array 'keypoints'")
    if points.ndim != 3 or points.shape[2] not in (2, 3) or points.dtype.kind not in "fiu":
        raise KeypointFileError(
            f"its array 'keypoints' is {points.dtype} {points.shape}; "
            "allowed: numbers (frames, points, 3) or (frames, points, 2)"
        )
    points = points.astype(np.float32)
    if points.shape[2] == 2:
        points = np.concatenate([points, np.ones_like(points[..., :1])], axis=2)
    if (confidence := arrays.get("confidence")) is not None:
        if confidence.shape != points.shape[:2] or confidence.dtype.kind not in "fiu":
            raise KeypointFileError(
                f"its array 'confidence' is {confidence.dtype} {confidence.shape}; "
                f"allowed: numbers {points.shape[:2]}"
            )
        points[..., 2] = confidence
    if (size := arrays.get("size")) is not None:
        if size.shape != (2,) or size.dtype.kind not in "fiu" or not (size > 0).all():
            raise KeypointFileError("its array 'size' is not (width, height)")
        points[..., :2] /= size.astype(np.float32)
    elif _is_in_pixels(points):
        raise KeypointFileError(
            "its x and y are no shares of the image, from 0 to 1; pixels need an array 'size', "
            "(width, height)"
        )
    return KeypointFile(points, _npz_layout(arrays, points.shape[1]), _fps(arrays.get("fps")))


def _array(archive: zipfile.ZipFile, name: str) -> Shaped[np.ndarray, "..."]:
    """Read an array of numbers or texts, and no more bytes than its header announces."""
    with archive.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        if version == (1, 0):
            shape, by_columns, dtype = np.lib.format.read_array_header_1_0(member)
        else:
            shape, by_columns, dtype = np.lib.format.read_array_header_2_0(member)
        count = math.prod(shape)
        if dtype.kind not in "fiuU" or count > MAX_NUMBERS or dtype.itemsize > 1024:
            raise KeypointFileError(f"its array {name!r} is {dtype} {shape}, which is not allowed")
        content = member.read(count * dtype.itemsize)
    if len(content) < count * dtype.itemsize:
        raise KeypointFileError(f"its array {name!r} is truncated")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if by_columns else "C")


def _is_in_pixels(points: Float[np.ndarray, "n k 3"]) -> bool:
    """Return True if most of the known points are far outside of an image of sides 1."""
    known = points[points[..., 2] > 0][:, :2]
    known = known[np.isfinite(known).all(axis=1)]
    return len(known) > 0 and float(np.median(np.abs(known).max(axis=1))) > 3


def _fps(value: Shaped[np.ndarray, "..."] | None) -> float | None:
    if value is None:
        return None
    if value.size != 1 or value.dtype.kind not in "fiu":
        raise KeypointFileError("its 'fps' is not a number")
    fps = float(value.reshape(()))
    return fps if math.isfinite(fps) and fps > 0 else None


def _npz_layout(arrays: dict[str, np.ndarray], count: int) -> KeypointLayout:
    _check_count(count)
    point_names = arrays.get("points")
    if point_names is None:
        for known in (MEDIAPIPE_POSE, HOLISTIC):
            if len(known.points) == count:
                return known
        names = tuple(map(str, range(count)))
    else:
        names = tuple(map(str, point_names.reshape(-1).tolist()))
        if len(names) != count:
            raise KeypointFileError(f"it has {count} points, but {len(names)} names in 'points'")
    layout = arrays.get("layout")
    return KeypointLayout(f"file_{count}" if layout is None else str(layout.reshape(-1)[0]), names)


def _check_count(count: int) -> None:
    if not 0 < count <= MAX_POINTS:
        raise KeypointFileError(f"it has {count} points; allowed: 1 to {MAX_POINTS}")


# --- .pose: https://github.com/sign-language-processing/pose, docs/specs ---


@dataclasses.dataclass(frozen=True)
class _Component:
    """A part of the body: points with the same numbers each, such as "XYZC"."""

    name: str
    numbers: str
    points: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the points, unique over all components; MediaPipe's as in `data.keypoints`."""
        part, dot, _ = self.name.partition("_LANDMARKS")
        if not dot:
            return tuple(f"{self.name}/{point}" for point in self.points)
        prefix = "" if part == "POSE" else f"{part.lower()}_"
        return tuple(prefix + point.lower() for point in self.points)


class _Content:
    """The bytes of a file, read from the front."""

    def __init__(self, content: bytes):
        self._content = content
        self._position = 0

    def numbers(self, kinds: str) -> tuple:
        """Read little-endian numbers; `kinds` as in `struct`."""
        values = struct.unpack_from(f"<{kinds}", self._content, self._position)
        self._position += struct.calcsize(f"<{kinds}")
        return values

    def text(self) -> str:
        (length,) = self.numbers("H")
        (text,) = self.numbers(f"{length}s")
        return text.decode("utf-8", "replace")

    def floats(self, *shape: int) -> Float[np.ndarray, "..."]:
        """Read float32. Raises ValueError if there are not as many."""
        values = np.frombuffer(self._content, "<f4", math.prod(shape), self._position)
        self._position += values.nbytes
        return values.reshape(shape)

    @property
    def left(self) -> int:
        return len(self._content) - self._position


def _read_pose(file: BinaryIO) -> KeypointFile:
    content = _Content(file.read())
    version = round(content.numbers("f")[0], 3)
    if version not in _VERSIONS:
        raise KeypointFileError(
            f"its version is {version:g}; allowed: {', '.join(map(str, _VERSIONS))}"
        )
    width, height, _, count = content.numbers("4H")
    if not width or not height:
        raise KeypointFileError(f"its image has {width}x{height} pixels")
    components = [_read_component(content) for _ in range(count)]
    _check_count(sum(len(component.points) for component in components))
    values, fps = _READERS[version](content, components)
    kept = [component for component in components if component.name not in _LEFT_OUT]
    chosen = np.concatenate([np.full(len(c.points), c.name not in _LEFT_OUT) for c in components])
    points = values[:, chosen]
    _check_count(points.shape[1])
    points[..., :2] /= np.array([width, height], np.float32)
    return KeypointFile(points, _pose_layout(kept), fps if math.isfinite(fps) and fps > 0 else None)


def _read_component(content: _Content) -> _Component:
    name, numbers = content.text(), content.text()
    num_points, num_limbs, num_colors = content.numbers("3H")
    points = tuple(content.text() for _ in range(num_points))
    content.numbers(f"{2 * num_limbs + 3 * num_colors}H")
    if numbers[:2] != "XY" or numbers[-1:] != "C":
        raise KeypointFileError(f"its points are {numbers!r}; allowed: XYC, XYZC")
    return _Component(name, numbers, points)


def _pose_layout(components: Sequence[_Component]) -> KeypointLayout:
    names = tuple(name for component in components for name in component.names)
    if not all(component.name.endswith("_LANDMARKS") for component in components):
        return KeypointLayout(f"pose_file_{len(names)}", names)
    kind = "pose" if all(c.name == "POSE_LANDMARKS" for c in components) else "holistic"
    return KeypointLayout(f"mediapipe_{kind}_{len(names)}", names)


def _read_people(
    content: _Content, components: Sequence[_Component], frames: int, people: int
) -> Float[np.ndarray, "n k 3"]:
    """Read all coordinates, then all confidences; return the person with the most confidence."""
    k = sum(len(component.points) for component in components)
    dims = max(len(component.numbers) for component in components) - 1
    if not people:
        raise KeypointFileError("it has nobody's points")
    coordinates = content.floats(frames, people, k, dims)
    confidences = content.floats(frames, people, k)
    person = int(np.nansum(confidences, axis=(0, 2)).argmax())
    points = np.concatenate([coordinates[..., :2], confidences[..., None]], axis=-1)
    return points[:, person]


def _read_0_2(
    content: _Content, components: Sequence[_Component]
) -> tuple[Float[np.ndarray, "n k 3"], float]:
    fps, frames, people = content.numbers("fIH")
    return _read_people(content, components, frames, people), fps


def _read_0_1(
    content: _Content, components: Sequence[_Component]
) -> tuple[Float[np.ndarray, "n k 3"], float]:
    fps, frames, people = content.numbers("3H")
    k = sum(len(component.points) for component in components)
    dims = max(len(component.numbers) for component in components) - 1
    if people and k:  # the number of frames begins again at 0 after 65,535
        stored, rest = divmod(content.left, people * k * (dims + 1) * 4)
        if rest or stored % 65536 != frames:
            raise KeypointFileError(f"it is truncated: {content.left} bytes for {frames} frames")
        frames = stored
    return _read_people(content, components, frames, people), fps


def _read_0_0(
    content: _Content, components: Sequence[_Component]
) -> tuple[Float[np.ndarray, "n k 3"], float]:
    """Read frame by frame, with the first person of each."""
    fps, frames = content.numbers("2H")
    k = sum(len(component.points) for component in components)
    if 3 * frames * k > MAX_NUMBERS:
        raise KeypointFileError(f"it has {frames} frames of {k} points, which is not allowed")
    points = np.zeros((frames, k, 3), np.float32)
    for frame in points:
        (people,) = content.numbers("H")
        for person in range(people):
            content.numbers("h")  # the person's id
            parts = [content.floats(len(c.points), len(c.numbers)) for c in components]
            if person == 0:
                frame[:] = np.concatenate([part[:, [0, 1, -1]] for part in parts])
    return points, fps


_READERS = {0.0: _read_0_0, 0.1: _read_0_1, 0.2: _read_0_2}
