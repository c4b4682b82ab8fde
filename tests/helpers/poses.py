"""Pose models for tests: a stand-in that finds a red dot, and MediaPipe's models if they exist."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from signvit_jax.media.pose_model import MODEL_FILES

FAKE_LITERT = Path(__file__).parent / "fake_litert"
VISIBLE = 1 / (1 + np.exp(-2.0))  # the confidence of all points that the stand-in finds


def fake_models(folder: Path) -> Path:
    """Write the stand-in's models to `folder`; return it."""
    folder.mkdir()
    for name, content in zip(MODEL_FILES, (b"detector", b"landmarks"), strict=True):
        (folder / name).write_bytes(content)
    return folder


def use_fake_litert(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process and its children import the stand-in in place of ai_edge_litert."""
    monkeypatch.syspath_prepend(str(FAKE_LITERT))
    paths = (str(FAKE_LITERT), *filter(None, [os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


def real_models() -> Path:
    """Return the folder of MediaPipe's models; skip the test if they or LiteRT are missing."""
    if importlib.util.find_spec("ai_edge_litert") is None:
        pytest.skip("ai-edge-litert is not installed (the extra `keypoints`)")
    folder = Path(os.environ.get("KEYPOINT_MODELS", "build/keypoint_models"))
    if not all((folder / name).is_file() for name in MODEL_FILES):
        pytest.skip(f"no pose models in {folder} (scripts/keypoint_models.sh, KEYPOINT_MODELS)")
    return folder


def frame_with_dot(width: int, height: int, x: float, y: float) -> np.ndarray:
    """Return a gray frame with a red dot at (x, y), fractions of its sides; no dot if x is NaN."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    frame = np.full((height, width, 3), 40, np.uint8)
    if np.isfinite(x):
        distance = (columns - x * width) ** 2 + (rows - y * height) ** 2
        frame[..., 0] = 40 + 215 * np.exp(-distance / (2 * (0.04 * width) ** 2))
    return frame
