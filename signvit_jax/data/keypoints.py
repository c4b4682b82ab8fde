"""Keypoints of the signer in each frame: the names of the points, and the parts that they show.

The keypoints of a clip are (t, k, 3): x and y in shares of the image's width and height, from its
top left corner, and a confidence from 0 to 1. Points may be outside of the image. A point that is
not known has the confidence 0, and its x and y are 0. They are not NaN, so that a sum with
confidences as weights ignores them.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float16, Float32, Int, Shaped

_SIDES = {"left": "right", "right": "left", "L": "R", "R": "L"}
# Sides in names: words as in "left_wrist" and "HAND_RIGHT", letters as in OpenPose's "LWrist".
_SIDE_WORD = re.compile(r"left|right", re.IGNORECASE)
_SIDE_LETTER = re.compile(r"\b[LR](?=[A-Z])")
_FLOAT16_MAX = float(np.finfo(np.float16).max)


@dataclasses.dataclass(frozen=True)
class KeypointLayout:
    """The points of every frame of a data set, by name."""

    name: str
    points: tuple[str, ...]  # different names; "left" and "right" are the signer's own

    def index(self, point: str) -> int:
        """Return the number of a point. Raises ValueError if there is none of that name."""
        return self.points.index(point)

    def side(self, point: str) -> str:
        """Return "left" or "right"; "" if the layout lacks this point on the other side."""
        other = self.points[self.mirrored[self.index(point)]]
        for side in (_SIDE_WORD, _SIDE_LETTER):
            match = side.search(point)
            if match is not None and other != point:
                return "left" if match.group()[0] in "lL" else "right"
        return ""

    @functools.cached_property
    def mirrored(self) -> Int[np.ndarray, " k"]:
        """For each point, the number of the one that takes its place in a mirrored image.

        That is the point of the other side by its name, or the point itself.
        """
        numbers = {point: number for number, point in enumerate(self.points)}

        def other(point: str) -> int:
            for side in (_SIDE_WORD, _SIDE_LETTER):
                name = side.sub(_other_side, point)
                if name != point and name in numbers:
                    return numbers[name]
            return numbers[point]

        return np.array([other(point) for point in self.points])

    @property
    def has_sides(self) -> bool:
        """False if no point has one of the other side, so that mirroring cannot swap them."""
        return bool((self.mirrored != np.arange(len(self.points))).any())

    def to_json(self) -> dict[str, object]:
        return {"layout": self.name, "points": list(self.points)}

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> "KeypointLayout | None":
        """Read what `to_json` wrote; return None if it is not that."""
        name, points = values.get("layout"), values.get("points")
        if not isinstance(name, str) or not isinstance(points, list):
            return None
        return cls(name, tuple(map(str, points)))


def _other_side(side: re.Match[str]) -> str:
    word = side.group()
    if word in _SIDES:
        return _SIDES[word]
    other = _SIDES[word.lower()]
    return other.upper() if word.isupper() else other.capitalize()


def _plain_name(point: str) -> str:
    """Return "left_wrist" for "POSE_LANDMARKS/LEFT_WRIST", "LWrist" and "leftWrist"."""
    name = point.rpartition("/")[2]
    for letter, side in (("L", "left_"), ("R", "right_")):
        name = re.sub(rf"^{letter}(?=[A-Z][a-z])", side, name)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _both_sides(*names: str) -> tuple[str, ...]:
    return tuple(f"{side}_{name}" for name in names for side in ("left", "right"))


# The points of BlazePose (Bazarevsky et al. 2020), in the order of its landmark model.
MEDIAPIPE_POSE = KeypointLayout(
    "mediapipe_pose_33",
    (
        "nose",
        *(f"{side}_eye{part}" for side in ("left", "right") for part in ("_inner", "", "_outer")),
        *_both_sides("ear"),
        "mouth_left",
        "mouth_right",
        *_both_sides("shoulder", "elbow", "wrist", "pinky", "index", "thumb", "hip"),
        *_both_sides("knee", "ankle", "heel", "foot_index"),
    ),
)
_FINGERS = ("index_finger", "middle_finger", "ring_finger", "pinky")
_HAND = (
    "wrist",
    *(f"thumb_{joint}" for joint in ("cmc", "mcp", "ip", "tip")),
    *(f"{finger}_{joint}" for finger in _FINGERS for joint in ("mcp", "pip", "dip", "tip")),
)
# With the points of both hands after them, as files often have them.
HOLISTIC = KeypointLayout(
    "mediapipe_holistic_75",
    (
        *MEDIAPIPE_POSE.points,
        *(f"{side}_hand_{point}" for side in ("left", "right") for point in _HAND),
    ),
)
# Those of drawn signers: names as above. "pinky" and "index" are the first knuckles.
DRAWN = KeypointLayout(
    "drawn_11", ("nose", *_both_sides("shoulder", "elbow", "wrist", "pinky", "index"))
)


# The parts of the signer that the model crops, in the order of its localizer's outputs. The
# signer's right hand is mostly on the left in the image.
PARTS = ("right_hand", "left_hand", "face")
# A hand's center lies this share of the way from the wrist to the first knuckles.
_TO_KNUCKLES = 0.7


@functools.lru_cache
def part_weights(layout: KeypointLayout) -> Float32[np.ndarray, "parts k"]:
    """Return the weights of the keypoints whose weighted mean is the place of each of `PARTS`.

    If a point has the part's name, the part is at that point. Otherwise a hand is between the wrist
    and the knuckles ("pinky" and "index"), or at the wrist if the layout has no knuckles, and the
    face is at the nose. The row of a part that the layout does not show is 0. Names of other
    programs are understood: "POSE_LANDMARKS/LEFT_WRIST" of MediaPipe, "LWrist" of OpenPose.
    """
    numbers: dict[str, int] = {}
    for number, point in enumerate(layout.points):
        numbers.setdefault(_plain_name(point), number)

    def shares(part: str) -> dict[str, float]:
        """Weights by point, of the first option all of whose points the layout has."""
        options = [{part: 1.0}]
        if part == "face":
            options.append({"nose": 1.0})
        else:
            side = part.partition("_")[0]
            wrist, knuckles = f"{side}_wrist", (f"{side}_pinky", f"{side}_index")
            options.append({wrist: 1.0 - _TO_KNUCKLES} | dict.fromkeys(knuckles, _TO_KNUCKLES / 2))
            options.append({wrist: 1.0})
        return next((points for points in options if set(points) <= set(numbers)), {})

    weights = np.zeros((len(PARTS), len(layout.points)), np.float32)
    for row, part in zip(weights, PARTS):
        for point, share in shares(part).items():
            row[numbers[point]] = share
    return weights


def part_points(
    points: Float32[np.ndarray, "*n k 3"], weights: Float32[np.ndarray, "parts k"]
) -> Float32[np.ndarray, "*n parts 3"]:
    """Return the places of `PARTS` as (y, x, confidence), from keypoints (x, y, confidence).

    The confidence is the lowest one of the points that have a weight.
    """
    places = np.einsum("pk,...kc->...pc", weights, points)
    confidence = np.where(weights > 0.0, points[..., None, :, 2], np.inf).min(axis=-1)
    places[..., 2] = np.where(np.isfinite(confidence), confidence, 0.0)
    return places[..., [1, 0, 2]]


def stored_keypoints(
    points: Shaped[np.ndarray, "t k 3"],
) -> Float16[np.ndarray, "t k 3"]:
    """Return keypoints as they are stored: float16, and zeros where a point is not known.

    A point is not known if its confidence is 0 or less, or one of its numbers is not finite.
    Confidences are clipped to 1.
    """
    points = np.asarray(points, np.float64)
    known = np.isfinite(points).all(axis=-1, keepdims=True) & (points[..., 2:] > 0)
    points = np.where(known, points, 0.0)
    points[..., 2] = np.minimum(points[..., 2], 1.0)
    return np.clip(points, -_FLOAT16_MAX, _FLOAT16_MAX).astype(np.float16)


def known_share(points: Float16[np.ndarray, "t k 3"]) -> float:
    """Return the share of frames in which some point is known."""
    return float((points[..., 2] > 0).any(axis=-1).mean()) if len(points) else 0.0
