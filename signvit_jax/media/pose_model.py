"""The pose of the signer in an image, by two models of MediaPipe that LiteRT runs.

`pose_detection.tflite` finds a person in an image, `pose_landmark_full.tflite` their 33 points in a
square around them (BlazePose, Bazarevsky et al. 2020). The square of a frame follows from the
points of the one before, so most frames need the second model only. Nothing is smoothed over time.
Of several people it follows the one of whom the first model is surest.

`video_worker.py` loads this file by its path. It must not import anything of the package.
"""

import os

import numpy as np
from PIL import Image

DETECTOR, LANDMARKS = MODEL_FILES = ("pose_detection.tflite", "pose_landmark_full.tflite")
POINTS = 33
_DETECTOR_SIZE, _LANDMARK_SIZE = 224, 256  # sides of the models' inputs, in pixels
_STRIDES = ((8, 2), (16, 2), (32, 6))  # of the detector's maps, in pixels, and anchors of each cell
# The outputs that are used, with their shapes.
_OUTPUTS: dict[str, dict[str, tuple[int, ...]]] = {
    DETECTOR: {"boxes": (2254, 12), "scores": (2254, 1)},
    LANDMARKS: {"points": (195,), "person": (1,)},
}
_LEAST_SCORE = 0.5  # of a person, in both models
_MARGIN = 1.25  # side of the square, in diameters of the circle around the person
_MIDDLE, _CIRCLE = 33, 34  # auxiliary points: the middle of the hips, and one on the circle

type _Square = tuple[np.ndarray, float, float]  # center and side in pixels, angle in radians


class PoseModelError(Exception):
    """The models cannot be loaded; the message says why."""


class PoseModel:
    """The two models. One clip at a time, frame by frame."""

    def __init__(self, folder: str):
        """Load MODEL_FILES from `folder`. Raises PoseModelError."""
        self._detector = _Network(folder, DETECTOR)
        self._landmarks = _Network(folder, LANDMARKS)
        self._anchors = _anchors()
        self._square: _Square | None = None

    def start_clip(self) -> None:
        """Forget where the person was in the last frame."""
        self._square = None

    def points(self, image: np.ndarray) -> np.ndarray:
        """Return the points (33, 3) in an RGB image (h, w, 3), the frame after the last one.

        They are x and y in shares of the image's width and height, and the confidence that the
        point is visible. All are 0 where no person is found.
        """
        result = self._landmarks_in(image, self._square) if self._square is not None else None
        if result is None and (square := self._detect(image)) is not None:
            result = self._landmarks_in(image, square)
        if result is None:
            self._square = None
            return np.zeros((POINTS, 3), np.float32)
        points, self._square = result
        points[:, :2] /= image.shape[1], image.shape[0]
        return points.astype(np.float32)

    def _detect(self, image: np.ndarray) -> _Square | None:
        height, width = image.shape[:2]
        side, middle = max(height, width), np.array([width / 2, height / 2])
        outputs = self._detector(2 * _cut(image, (middle, side, 0.0), _DETECTOR_SIZE) - 1)
        best = int(outputs["scores"][:, 0].argmax())
        if _sigmoid(outputs["scores"][best, 0]) < _LEAST_SCORE:
            return None
        # After the box come four points: the middle of the hips, one on the circle, and two more.
        points = outputs["boxes"][best, 4:8].reshape(2, 2) / _DETECTOR_SIZE + self._anchors[best]
        return _square_around(*((points - 0.5) * side + middle))

    def _landmarks_in(
        self, image: np.ndarray, square: _Square
    ) -> tuple[np.ndarray, _Square] | None:
        """Return the points in pixels, with confidences, and the square of the next frame."""
        outputs = self._landmarks(_cut(image, square, _LANDMARK_SIZE))
        if outputs["person"][0] < _LEAST_SCORE:
            return None
        values = outputs["points"].reshape(-1, 5).astype(np.float64)  # x, y, z, visible, present
        if not np.isfinite(values).all():
            return None
        center, side, angle = square
        x, y = ((values[:, :2] / _LANDMARK_SIZE - 0.5) * side).T
        cos, sin = np.cos(angle), np.sin(angle)
        places = np.stack([cos * x - sin * y, sin * x + cos * y], axis=1) + center
        points = np.column_stack([places[:POINTS], _sigmoid(values[:POINTS, 3])])
        return points, _square_around(places[_MIDDLE], places[_CIRCLE])


class _Network:
    """One model: image (size, size, 3) to named arrays. One thread; builds run one per core."""

    def __init__(self, folder: str, name: str):
        path = os.path.join(folder, name)
        try:
            from ai_edge_litert.interpreter import Interpreter

            with open(path, "rb") as file:
                content = _with_outputs(file.read(), set(_OUTPUTS[name].values()))
            self._interpreter = Interpreter(model_content=content, num_threads=1)
            self._interpreter.allocate_tensors()
            self._input = self._interpreter.get_input_details()[0]["index"]
            shapes = {
                tuple(details["shape"][1:].tolist()): details["index"]
                for details in self._interpreter.get_output_details()
            }
            self._outputs = {key: shapes[shape] for key, shape in _OUTPUTS[name].items()}
        except ImportError as error:
            raise PoseModelError(f"ai_edge_litert cannot be imported: {error}") from error
        except FileNotFoundError:
            raise PoseModelError(f"there is no {path}") from None
        except Exception as error:  # flatbuffers and LiteRT raise several types for other content
            raise PoseModelError(
                f"{path} is not MediaPipe's model of that name ({type(error).__name__}: {error})"
            ) from error

    def __call__(self, image: np.ndarray) -> dict[str, np.ndarray]:
        self._interpreter.set_tensor(self._input, image[None])
        self._interpreter.invoke()
        return {key: self._interpreter.get_tensor(i)[0] for key, i in self._outputs.items()}


def _with_outputs(content: bytes, shapes: set[tuple[int, ...]]) -> bytes:
    """Return a model with only its outputs of these shapes, and the operators that they need.

    LiteRT runs all operators. The landmark model's mask and heat maps take 40 % of its time.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    graph = model.subgraphs[0]
    graph.outputs = [i for i in graph.outputs if tuple(graph.tensors[i].shape[1:]) in shapes]
    needed, kept = set(graph.outputs), []
    for operator in reversed(graph.operators):
        if needed.intersection(operator.outputs):
            kept.append(operator)
            needed.update(operator.inputs)
    graph.operators = kept[::-1]
    model.signatureDefs = None  # they name the outputs
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _cut(image: np.ndarray, square: _Square, size: int) -> np.ndarray:
    """Return a turned square of an image, (size, size, 3) from 0 to 1; black outside the image."""
    (x, y), side, angle = square
    scale = side / size
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    # (column, row) of the output to (x, y) in the image.
    matrix = (cos, -sin, x - (cos - sin) * size / 2, sin, cos, y - (sin + cos) * size / 2)
    cut = Image.fromarray(image).transform(
        (size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    return np.multiply(np.asarray(cut), np.float32(1 / 255), dtype=np.float32)


def _square_around(middle: np.ndarray, on_circle: np.ndarray) -> _Square:
    """Return the square around a person, turned so that the point on the circle is above."""
    x, y = on_circle - middle
    return middle, 2 * _MARGIN * float(np.hypot(x, y)), float(np.arctan2(x, -y))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -50, 50)))


def _anchors() -> np.ndarray:
    """The middles of the detector's cells (2254, 2), x and y from 0 to 1."""
    anchors = []
    for stride, count in _STRIDES:
        cells = (np.arange(_DETECTOR_SIZE // stride) + 0.5) * stride / _DETECTOR_SIZE
        y, x = np.meshgrid(cells, cells, indexing="ij")
        anchors.append(np.repeat(np.stack([x, y], axis=-1).reshape(-1, 2), count, axis=0))
    return np.concatenate(anchors)
