r"""Measure how well features find other clips of the same sign, without training anything.

    python scripts/bench/retrieval.py --data_dir=data --elsewhere=signer --workdir=runs/mine

Each clip of the data set is a query. The clips "elsewhere" (of other signers; with
--elsewhere=video_id, of other videos) are ordered by their distance to it: the cosine distance of
the frames' features, with dynamic time warping (Sakoe and Chiba 1978). Top-1 is the share of
queries whose nearest clip has the same text; the rank is that of the first clip with the same text.
A clip whose text does not occur elsewhere is no query; the output has the number of such clips.
Features:

- pixels: the square in which the clip moves, 16 x 16 gray values minus their mean over the clip
- pose: places of wrists and index knuckles relative to the middle of the shoulders, in shoulder
  widths, for data sets that were built with such keypoints
- trained: the frame features of --workdir's encoder, the output of its temporal network

A clip's text is its label.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from signvit_jax.config.files import load_config
from signvit_jax.config.schema import DataConfig
from signvit_jax.data.augment import NO_AUGMENTATION, decode_clip
from signvit_jax.data.dataset import open_dataset
from signvit_jax.data.frame_sampling import sample_frames
from signvit_jax.data.keypoints import KeypointLayout
from signvit_jax.data.records import Record
from signvit_jax.inference.trained_model import TrainedModel, load_trained
from signvit_jax.models.zoom import crop, moving_square

GRAY = 16  # side of the square of pixels
POINTS = ("left_shoulder", "right_shoulder", "left_wrist", "right_wrist")
POINTS += ("left_index", "right_index")


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip's sampled frames, their keypoints (t, k, 3) if there are any, and what it shows."""

    text: str
    group: str  # its signer or its source video: clips of the same group are not "elsewhere"
    video: np.ndarray  # uint8 (t, h, w, 3)
    keypoints: np.ndarray | None


def main(argv: Sequence[str] | None = None) -> int:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--data_dir", required=True)
    flags.add_argument("--name", default="video_folder")
    flags.add_argument("--splits", type=lambda text: text.split(","), default=None)
    flags.add_argument("--elsewhere", choices=("signer", "video_id"), default="signer")
    flags.add_argument("--workdir", help="a run, for its trained features")
    flags.add_argument("--limit", type=int, default=1000, help="clips at most, evenly chosen")
    arguments = flags.parse_args(argv)
    trained = load_trained(arguments.workdir) if arguments.workdir else None
    data = trained.config.data if trained else load_config("small", []).data
    dataset = open_dataset(arguments.data_dir, arguments.name)
    layout = dataset.keypoint_layout
    clips = []
    for split in arguments.splits or dataset.splits:
        records = dataset.split(split)
        clips += [read(records[i], data, arguments.elsewhere) for i in range(len(records))]
    if len(clips) > arguments.limit:
        clips = [clips[i * len(clips) // arguments.limit] for i in range(arguments.limit)]
    features: dict[str, Callable[[Clip], np.ndarray | None]] = {"pixels": pixels}
    if layout is not None and set(POINTS) <= set(layout.points):
        features["pose"] = lambda clip: pose(clip, layout)
    if trained is not None:
        features["trained"] = trained_features(trained)
    same, elsewhere = matches(clips)
    query = same.any(axis=1)
    chance = float(np.mean(same[query].sum(axis=1) / elsewhere[query].sum(axis=1)))
    print(f"{len(clips)} clips, {len({clip.text for clip in clips})} texts, ", end="")
    print(f"{len({clip.group for clip in clips})} values of {arguments.elsewhere}; ", end="")
    print(f"{int((~query).sum())} clips have no other of their text elsewhere; chance {chance:.3f}")
    for name, make in features.items():
        vectors = [make(clip) for clip in clips]
        known = np.array([vector is not None for vector in vectors])
        found = [vector for vector in vectors if vector is not None]
        ranks = first_ranks(found, same, elsewhere, known)
        print(
            f"{name}: top-1 {np.mean(ranks == 1):.3f} (standard error "
            f"{np.sqrt(np.mean(ranks == 1) * np.mean(ranks != 1) / len(ranks)):.3f}), "
            f"mean rank {ranks.mean():.1f}; {len(ranks)} queries",
            flush=True,
        )
    return 0


def read(record: Record, data: DataConfig, elsewhere: str) -> Clip:
    """Sample and decode a clip as evaluation does."""
    frames = sample_frames(len(record["video"]), record["fps"], data, data.num_frames)
    video = np.zeros((len(frames), data.image_size, data.image_size, 3), np.uint8)
    jpegs = [record["video"][i] for i in frames]
    decode_clip(jpegs, data.image_size, data.resize_mode, NO_AUGMENTATION, video)
    points = record["keypoints"][frames].astype(np.float32) if "keypoints" in record else None
    group = record["signer"] if elsewhere == "signer" else record["video_id"]
    return Clip(record["text"], group, video, points)


def matches(clips: Sequence[Clip]) -> tuple[np.ndarray, np.ndarray]:
    """Return `same` and `elsewhere`, bool (n, n).

    `elsewhere[i, j]`: clip j is elsewhere for query i. `same[i, j]`: it has the same text, too.
    """
    texts, groups = np.array([clip.text for clip in clips]), np.array([c.group for c in clips])
    elsewhere = groups[:, None] != groups
    return (texts[:, None] == texts) & elsewhere, elsewhere


def first_ranks(
    features: Sequence[np.ndarray], same: np.ndarray, elsewhere: np.ndarray, known: np.ndarray
) -> np.ndarray:
    """Return, for each query, the rank (from 1) of the first clip with the same text.

    `known`: which of the n clips have features; `features` are those of the known ones.
    """
    same, elsewhere = same[known][:, known], elsewhere[known][:, known]
    units = [unit(one) for one in features]
    longest = max(map(len, units))
    padded = np.stack([np.pad(one, ((0, longest - len(one)), (0, 0))) for one in units])
    lengths = np.array([len(one) for one in units])
    ranks = []
    for number in np.flatnonzero(same.any(axis=1)):
        others = np.flatnonzero(elsewhere[number])
        distances = warped_distances(units[number], padded[others], lengths[others])
        order = np.argsort(distances, kind="stable")
        ranks.append(1 + np.flatnonzero(same[number, others][order])[0])
    return np.array(ranks)


def unit(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-9)


def warped_distances(clip: np.ndarray, others: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The distances (n,) of a clip (t, f) to n clips (n, s, f), which are padded beyond `lengths`.

    All features have length 1. A distance is the least sum of cosine distances over a path from the
    first frames of both clips to their last ones, divided by the sum of both lengths.
    """
    cost = 1.0 - np.einsum("tf,nsf->tns", clip, others)
    row = np.cumsum(cost[0], axis=1)
    for number in range(1, len(clip)):
        previous, new = row, np.empty_like(row)
        new[:, 0] = previous[:, 0] + cost[number, :, 0]
        for column in range(1, row.shape[1]):
            before = np.minimum(previous[:, column], previous[:, column - 1])
            new[:, column] = np.minimum(before, new[:, column - 1]) + cost[number, :, column]
        row = new
    return row[np.arange(len(others)), lengths - 1] / (len(clip) + lengths)


@jax.jit
def _moving_gray(video: jax.Array) -> jax.Array:
    video = video.astype(jnp.float32)
    square = moving_square(video, jnp.ones(video.shape[:2], bool))
    gray = crop(video, square, GRAY).mean(axis=-1)
    return (gray - gray.mean(axis=1, keepdims=True)).reshape(*gray.shape[:2], -1)


def pixels(clip: Clip) -> np.ndarray:
    return np.asarray(_moving_gray(clip.video[None])[0])


def pose(clip: Clip, layout: KeypointLayout) -> np.ndarray | None:
    """Return wrists and index knuckles relative to the shoulders; None if they are never known.

    Frames in which one of the points is not known are left out.
    """
    if clip.keypoints is None:
        return None
    points = clip.keypoints[:, [layout.index(name) for name in POINTS]]
    points = points[(points[..., 2] > 0.0).all(axis=1)][..., :2]
    if not len(points):
        return None
    left, right = points[:, 0], points[:, 1]
    width = np.linalg.norm(left - right, axis=-1).mean()
    middle = (left + right)[:, None] / 2
    return ((points[:, 2:] - middle) / max(width, 1e-3)).reshape(len(points), -1)


def trained_features(trained: TrainedModel) -> Callable[[Clip], np.ndarray]:
    """Return the function from a clip to the encoder's frames."""
    longest = trained.config.data.frame_buckets[-1]

    @jax.jit
    def encode(params, video, lengths):
        return trained.definition.bind(params).encode(video, lengths).frames[0]

    def features(clip: Clip) -> np.ndarray:
        video = np.zeros((1, longest, *clip.video.shape[1:]), np.uint8)
        video[0, : len(clip.video)] = clip.video
        lengths = np.array([len(clip.video)], np.int32)
        return np.asarray(encode(trained.params, video, lengths), np.float32)[: len(clip.video)]

    return features


if __name__ == "__main__":
    sys.exit(main())
