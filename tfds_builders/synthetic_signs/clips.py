"""Clip number i of a split, from (seed, split, i) alone: any clip can be drawn by itself, in any process, in any order."""

import dataclasses
import functools
import math

import numpy as np
from jaxtyping import UInt8

from tfds_builders.clips import Clip
from tfds_builders.synthetic_signs import grammar, motion, render
from tfds_builders.synthetic_signs.signer import NUM_SIGNERS, Scene, Signer, draw_scene, draw_signer

SPLITS = tuple(NUM_SIGNERS)
STREAMS = ("script", "scene", "motion", "noise")  # independent draws of one clip


@dataclasses.dataclass(frozen=True)
class Options:
    """`size` in pixels (square frames), `frame_rate` a second; `rest_fraction` of the clips show nobody signing and have the text ""."""

    size: int = 64
    frame_rate: float = 12.5
    rest_fraction: float = 0.0


def clip(seed: int, split: str, index: int, options: Options) -> Clip:
    """The clip with its annotation; its frames are drawn when `frames` is called."""
    glosses, signer = script(seed, split, index, options)
    name = f"{split}_{index:06d}"
    return Clip(
        id=name,
        text=grammar.translate(glosses) if glosses else "",
        frames=functools.partial(draw_clip, seed, split, index, options),
        gloss=" ".join(glosses),
        signer=signer.name,
        video_id=name,
        split=split,
    )


def script(seed: int, split: str, index: int, options: Options) -> tuple[tuple[str, ...], Signer]:
    """What is signed, () for a clip at rest, and by whom. No sentence and no signer is in two splits, whatever the seeds."""
    rng = _generator(seed, split, index, "script")
    resting = rng.random() < options.rest_fraction
    signer = signer_of(split, int(rng.integers(NUM_SIGNERS[split])))
    return () if resting else grammar.draw_glosses(rng, split), signer


@functools.cache
def signer_of(split: str, number: int) -> Signer:
    """A signer of a split: the same person in every data set, whatever its seed."""
    return draw_signer(
        np.random.default_rng([SPLITS.index(split), number]), f"{split}_signer_{number:03d}"
    )


def performance(
    seed: int, split: str, index: int, options: Options
) -> tuple[Signer, Scene, motion.Utterance]:
    """How the script is played and filmed."""
    glosses, signer = script(seed, split, index, options)
    scene = draw_scene(_generator(seed, split, index, "scene"), signer)
    rng = _generator(seed, split, index, "motion")
    return (
        signer,
        scene,
        motion.utter(glosses, signer, scene.tempo, rng) if glosses else motion.idle(signer, rng),
    )


def draw_clip(
    seed: int, split: str, index: int, options: Options
) -> tuple[UInt8[np.ndarray, "t h w 3"], float]:
    """The frames of a clip and how many there are a second."""
    signer, scene, utterance = performance(seed, split, index, options)
    when = np.arange(math.ceil(utterance.seconds * options.frame_rate)) / options.frame_rate
    frames = render.draw(
        motion.arm(utterance.dominant.at(when), signer, 1.0),
        motion.arm(utterance.weak.at(when), signer, -1.0),
        motion.head_pose(utterance, when),
        when,
        signer,
        scene,
        options.size,
        _generator(seed, split, index, "noise"),
    )
    return frames, options.frame_rate


def _generator(seed: int, split: str, index: int, stream: str) -> np.random.Generator:
    return np.random.default_rng([seed, SPLITS.index(split), index, STREAMS.index(stream)])
