"""Keypoints of clips for a build: exact ones of drawn clips, or those of files.

Nothing here fails a clip: where keypoints cannot be had, none are known, and the build report lists
the clip with the reason. The module is fast to import: worker processes do not need TFDS.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float16

from signvit_jax.data.keypoints import KeypointLayout
from signvit_jax.data.schema import FewKeypoints, IndexEntry, KeypointReport

NONE, EXACT = "none", "exact"
SOURCES = (NONE, EXACT)
FEW = 0.5  # a clip with a pose in a smaller share of its frames is listed


@dataclasses.dataclass(frozen=True)
class KeypointSource:
    """Where the keypoints of all clips come from, and what they are."""

    kind: str  # one of SOURCES, but not NONE
    layout: KeypointLayout


@dataclasses.dataclass(frozen=True)
class ClipKeypoints:
    """The keypoints of a clip."""

    points: Float16[np.ndarray, "t k 3"]  # as `signvit_jax.data.keypoints` describes them
    fault: str = ""  # why none are known, if there is a reason

    @classmethod
    def unknown(cls, num_frames: int, layout: KeypointLayout, fault: str) -> "ClipKeypoints":
        return cls(np.zeros((num_frames, len(layout.points), 3), np.float16), fault)


def keypoint_report(
    layout: KeypointLayout, entries: Sequence[IndexEntry], faults: Mapping[str, str]
) -> KeypointReport:
    """Return the part of the build report on keypoints.

    `faults`: by clip id, why none are known.
    """
    frames = sum(entry.num_frames for entry in entries)
    known = sum(entry.num_frames * (entry.keypoints or 0.0) for entry in entries)
    few: list[FewKeypoints] = [
        {"id": entry.id, "share": entry.keypoints or 0.0, "reason": faults.get(entry.id, "")}
        for entry in entries
        if (entry.keypoints or 0.0) < FEW
    ]
    return {
        "layout": layout.name,
        "points": list(layout.points),
        "frames": known / frames if frames else 0.0,
        "few": few,
    }


def keypoint_sentences(report: KeypointReport) -> list[str]:
    """A sentence on the clips with few keypoints."""
    few = report["few"]
    if not few:
        return []
    first = few[0]
    reason = f" ({first['reason']})" if first["reason"] else ""
    return [
        f"in {len(few)} clips, such as {first['id']}{reason}, keypoints are known in less than "
        "half of the frames: stored with confidence 0 elsewhere (build_report.json, keypoints)"
    ]
