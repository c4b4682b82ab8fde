"""Stand-ins for the two models that `signvit_jax.media.pose_model` runs."""

import os
import signal
import time

import numpy as np

# Offset of the point on the circle around the person from the dot, in pixels of the landmark
# model's input.
CIRCLE = np.array([80.0, -60.0])


class Interpreter:
    """A model whose file begins with b"detector" or b"landmarks"."""

    def __init__(self, model_content: bytes, num_threads: int):
        assert num_threads == 1
        self._detects = b"detector" in model_content
        if not self._detects and b"landmarks" not in model_content:
            raise ValueError("no model")

    def allocate_tensors(self):
        pass

    def get_input_details(self):
        return [{"index": 7}]

    def get_output_details(self):
        shapes = [(1, 2254, 12), (1, 2254, 1)] if self._detects else [(1, 1), (1, 195)]
        return [{"index": i, "shape": np.array(shape)} for i, shape in enumerate(shapes)]

    def set_tensor(self, index: int, image: np.ndarray):
        assert index == 7 and image.dtype == np.float32
        side = 224 if self._detects else 256
        assert image.shape == (1, side, side, 3)
        self._image = (image[0] + 1) / 2 if self._detects else image[0]
        assert self._image.min() >= 0 and self._image.max() <= 1

    def invoke(self):
        if (self._image[..., 2] > 0.9).mean() > 0.3:
            os.kill(os.getpid(), signal.SIGSEGV)
        if (self._image[..., 1] > 0.9).mean() > 0.3:
            end = time.process_time() + 0.5
            while time.process_time() < end:
                pass
        red = np.maximum(self._image[..., 0] - 0.3, 0)
        y, x = np.mgrid[: len(red), : len(red)] + 0.5
        found = red.max() > 0.3
        self._dot = np.array([(x * red).sum(), (y * red).sum()]) / red.sum() if found else None

    def get_tensor(self, index: int) -> np.ndarray:
        if self._detects:
            return self._scores() if index else self._boxes()
        return self._points() if index else np.full((1, 1), float(self._dot is not None))

    def _scores(self) -> np.ndarray:
        scores = np.full((1, 2254, 1), -9.0)
        if self._dot is not None:
            scores[0, 0] = 3.0
        return scores

    def _boxes(self) -> np.ndarray:
        boxes = np.zeros((1, 2254, 12))
        if self._dot is not None:
            center = self._dot - 4  # relative to the middle of the first cell, at (4, 4)
            boxes[0, 0, 4:8] = *center, *(center + np.array([10, -50]))
        return boxes

    def _points(self) -> np.ndarray:
        points = np.zeros((1, 39, 5), np.float32)
        if self._dot is not None:
            points[0, :, :2] = self._dot
            points[0, 34, :2] += CIRCLE
            points[0, :, 3] = 2.0
        return points.reshape(1, 195)
