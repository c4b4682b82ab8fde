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


@dataclasses.dataclass(frozen=True)
class Options:
    """`size` in pixels (square frames), `frame_rate` a second; `rest_fraction` of the clips show nobody signing and have the text ""."""

    size: int = 64
    frame_rate: float = 12.5
    rest_fraction: float = 0.0


@dataclasses.dataclass(frozen=True)
class Take:
    """All that is drawn by lot for one clip; () glosses is a clip at rest."""

    glosses: tuple[str, ...]
    signer: Signer
    scene: Scene
    motion_seed: np.random.SeedSequence
    noise_seed: np.random.SeedSequence


def clip(seed: int, split: str, index: int, options: Options) -> Clip:
    """The clip with its annotation; its frames are drawn when `frames` is called."""
    drawn = take(seed, split, index, options)
    name = f"{split}_{index:06d}"
    return Clip(
        id=name,
        text=grammar.translate(drawn.glosses) if drawn.glosses else "",
        frames=functools.partial(draw_clip, seed, split, index, options),
        gloss=" ".join(drawn.glosses),
        signer=drawn.signer.name,
        video_id=name,
        split=split,
    )


def take(seed: int, split: str, index: int, options: Options) -> Take:
    """Sentence, signer and scene of a clip. No sentence and no signer is in two splits, whatever the seeds."""
    words, scene, motion_seed, noise_seed = np.random.SeedSequence([seed, SPLITS.index(split), index]).spawn(4)
    rng = np.random.default_rng(words)
    resting = rng.random() < options.rest_fraction
    signer = signer_of(split, int(rng.integers(NUM_SIGNERS[split])))
    glosses = () if resting else grammar.draw_glosses(rng, split)
    return Take(glosses, signer, draw_scene(np.random.default_rng(scene), signer), motion_seed, noise_seed)


@functools.cache
def signer_of(split: str, number: int) -> Signer:
    """A signer of a split: the same person in every data set, whatever its seed."""
    return draw_signer(np.random.default_rng([SPLITS.index(split), number]), f"{split}_signer_{number:03d}")


def draw_clip(seed: int, split: str, index: int, options: Options) -> tuple[UInt8[np.ndarray, "t h w 3"], float]:
    """The frames of a clip and how many there are a second."""
    drawn = take(seed, split, index, options)
    rng = np.random.default_rng(drawn.motion_seed)
    signer = drawn.signer
    utterance = motion.utter(drawn.glosses, signer, drawn.scene.tempo, rng) if drawn.glosses else motion.idle(signer, rng)
    when = np.arange(math.ceil(utterance.seconds * options.frame_rate)) / options.frame_rate
    frames = render.draw(
        motion.arm(utterance.dominant.at(when), signer, 1.0),
        motion.arm(utterance.weak.at(when), signer, -1.0),
        motion.head_pose(utterance, when),
        when,
        signer,
        drawn.scene,
        options.size,
        np.random.default_rng(drawn.noise_seed),
    )
    return frames, options.frame_rate
