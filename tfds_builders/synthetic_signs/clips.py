"""The clips of synthetic_signs: clip i of a split is a function of (seed, split, i).

So any clip can be drawn alone, in any process and in any order.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from tfds_builders.clips import Clip
from tfds_builders.synthetic_signs import grammar, motion, render
from tfds_builders.synthetic_signs.signer import NUM_SIGNERS, Scene, Signer, draw_scene, draw_signer

SPLITS = tuple(NUM_SIGNERS)
STREAMS = ("script", "scene", "motion", "noise")  # independent random streams of one clip


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the drawing."""

    size: int = 64  # height and width of a frame in pixels
    frame_rate: float = 12.5  # frames per second
    rest_fraction: float = 0.0  # share of clips in which nobody signs; their text is ""
    num_signs: int = len(grammar.GLOSSES)  # size of the vocabulary, from grammar.BY_USE
    max_glosses: int = grammar.MAX_GLOSSES  # length of the longest sentence in signs


def clip(seed: int, split: str, index: int, options: Options) -> Clip:
    """Return the clip with its annotation; its frames are drawn when `frames` is called."""
    glosses, signer = script(seed, split, index, options)
    name = f"{split}_{index:06d}"
    return Clip(
        id=name,
        text=grammar.translate(glosses) if glosses else "",
        frames=functools.partial(draw_clip, seed, split, index, options),
        keypoints=functools.partial(keypoints_of, seed, split, index, options),
        gloss=" ".join(glosses),
        signer=signer.name,
        video_id=name,
        split=split,
    )


def script(seed: int, split: str, index: int, options: Options) -> tuple[tuple[str, ...], Signer]:
    """Return the glosses, () for a clip at rest, and the signer.

    No sentence and no signer is in two splits, whatever the seeds.
    """
    rng = _generator(seed, split, index, "script")
    resting = rng.random() < options.rest_fraction
    signer = signer_of(split, int(rng.integers(NUM_SIGNERS[split])))
    if resting:
        return (), signer
    return grammar.draw_glosses(rng, split, options.num_signs, options.max_glosses), signer


@functools.cache
def signer_of(split: str, number: int) -> Signer:
    """Return a signer of a split: the same person in every data set, for any seed."""
    rng = np.random.default_rng([SPLITS.index(split), number])
    return draw_signer(rng, f"{split}_signer_{number:03d}")


def performance(
    seed: int, split: str, index: int, options: Options
) -> tuple[Signer, Scene, motion.Utterance]:
    """Return the signer, the scene and the movement of a clip."""
    glosses, signer = script(seed, split, index, options)
    scene = draw_scene(_generator(seed, split, index, "scene"), signer)
    rng = _generator(seed, split, index, "motion")
    if glosses:
        return signer, scene, motion.utter(glosses, signer, scene.tempo, rng)
    return signer, scene, motion.idle(signer, rng)


def draw_clip(
    seed: int, split: str, index: int, options: Options
) -> tuple[UInt8[np.ndarray, "t h w 3"], float]:
    """Return the frames of a clip and the frame rate in frames per second."""
    noise = _generator(seed, split, index, "noise")
    moments = _moments(seed, split, index, options)
    return render.draw(*moments, options.size, noise), options.frame_rate


def keypoints_of(
    seed: int, split: str, index: int, options: Options
) -> Float[np.ndarray, "t 11 3"]:
    """Return the exact keypoints of the frames of `draw_clip`, as `render.keypoints`."""
    return render.keypoints(*_moments(seed, split, index, options))


class _Moments(NamedTuple):
    """What is drawn in each frame of a clip."""

    dominant: motion.Arm
    weak: motion.Arm
    head: Float[np.ndarray, "t 3"]
    seconds: Float[np.ndarray, "t"]
    signer: Signer
    scene: Scene


def _moments(seed: int, split: str, index: int, options: Options) -> _Moments:
    signer, scene, utterance = performance(seed, split, index, options)
    when = np.arange(math.ceil(utterance.seconds * options.frame_rate)) / options.frame_rate
    return _Moments(
        motion.arm(utterance.dominant.at(when), signer, 1.0),
        motion.arm(utterance.weak.at(when), signer, -1.0),
        motion.head_pose(utterance, when),
        when,
        signer,
        scene,
    )


def _generator(seed: int, split: str, index: int, stream: str) -> np.random.Generator:
    return np.random.default_rng([seed, SPLITS.index(split), index, STREAMS.index(stream)])
