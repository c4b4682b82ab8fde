"""Draw recordings and clips of rest, from signers and sentences of synthetic_signs' test split.

A recording consists of held-out sentences with pauses between them. `one_take` shows one signer in
one room, who rests and breathes in the pauses. `many_takes` consists of complete test clips, each
with another signer and room; in a pause the last frame is repeated, with slight noise.

Kinds of rest: `still` (only the camera's noise), `breathing` (the body sways), `scratching` the
head, `walking` in or out.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tfds_builders.synthetic_signs import grammar, motion, render
from tfds_builders.synthetic_signs.clips import Options, draw_clip, script, signer_of
from tfds_builders.synthetic_signs.motion import TimeLine, Utterance
from tfds_builders.synthetic_signs.signer import NUM_SIGNERS, Scene, Signer, draw_scene
from tfds_builders.synthetic_signs.signs import WAITING

RATE, SIZE = Options.frame_rate, Options.size
RESTS = ("still", "breathing", "scratching", "walking")


class Recording(NamedTuple):
    """A drawn recording of several sentences, with each sentence as a clip too."""

    frames: np.ndarray  # uint8 (t, h, w, 3), RATE per second
    text: str
    clips: list[tuple[np.ndarray, str]]  # (frames, text) of each sentence


def many_takes(number: int, seconds: float, longest_pause: float) -> Recording:
    """Draw a recording of `seconds` or a little more, with pauses of up to `longest_pause` s."""
    rng = np.random.default_rng([21, number])
    clips, parts = [], []
    length = 0
    while length < seconds * RATE:
        index = int(rng.integers(100_000))
        glosses, _ = script(0, "test", index, Options())
        frames, _ = draw_clip(0, "test", index, Options())
        clips.append((frames, grammar.translate(glosses)))
        pause = np.repeat(
            frames[-1:].astype(np.float32), round(rng.uniform(0.0, longest_pause) * RATE), axis=0
        )
        pause = np.clip(pause + rng.normal(0.0, 2.0, pause.shape), 0, 255).astype(np.uint8)
        parts += [frames, pause]
        length += len(frames) + len(pause)
    return Recording(np.concatenate(parts), " ".join(text for _, text in clips), clips)


def one_take(number: int, seconds: float, longest_pause: float) -> Recording:
    """Draw a recording of `seconds` or a little more, with pauses of up to `longest_pause` s."""
    rng = np.random.default_rng([22, number])
    signer = signer_of("test", int(rng.integers(NUM_SIGNERS["test"])))
    scene = draw_scene(rng, signer)
    keys = {"dominant": [], "weak": []}
    spans, clips = [], []
    now = 0.0
    while now < seconds:
        glosses = grammar.draw_glosses(rng, "test")
        utterance = motion.utter(glosses, signer, scene.tempo, rng)
        clips.append((_filmed(utterance, signer, scene, rng), grammar.translate(glosses)))
        for hand, keys_of_hand in keys.items():
            line = getattr(utterance, hand)
            keys_of_hand.append((line.seconds + now, line.values, line.flow))
        spans += [(gloss, start + now, end + now) for gloss, start, end in utterance.spans]
        now += utterance.seconds + rng.uniform(0.0, longest_pause) + 1e-3
    lines = {
        hand: TimeLine(*(np.concatenate(parts) for parts in zip(*keys_of_hand)))
        for hand, keys_of_hand in keys.items()
    }
    frames = _filmed(Utterance(**lines, spans=tuple(spans), seconds=now), signer, scene, rng)
    return Recording(frames, " ".join(text for _, text in clips), clips)


def rest(kind: str, number: int) -> np.ndarray:
    """Draw a clip of 1.5 to 5 seconds in which nobody signs; return its frames."""
    rng = np.random.default_rng([23, RESTS.index(kind), number])
    signer = signer_of("test", int(rng.integers(NUM_SIGNERS["test"])))
    scene = draw_scene(rng, signer)
    seconds = rng.uniform(1.5, 5.0)
    if kind == "still":
        scene = dataclasses.replace(scene, sway=(0.0, 0.0))
    if kind == "scratching":
        return _filmed(_scratching(signer, rng), signer, scene, rng)
    resting = {
        hand: [(0.0, values), (seconds, values)] for hand, values in motion._at_rest(signer).items()
    }
    if kind == "walking":
        return _walking(_utterance(resting, seconds), signer, scene, rng)
    return _filmed(_utterance(resting, seconds), signer, scene, rng)


def _scratching(signer: Signer, rng: np.random.Generator) -> Utterance:
    """A hand moves up to the head, scratches it and moves back."""
    resting = motion._at_rest(signer)
    at_head = resting["dominant"].copy()
    at_head[:3] = motion.place(
        np.array([rng.uniform(0.1, 0.45), rng.uniform(-0.95, -0.6), 0.3]), signer
    )
    at_head[3], at_head[5:] = 30.0, motion._values((WAITING,), signer)[0][5:]
    begin = rng.uniform(0.3, 0.6)
    now = begin + rng.uniform(0.5, 0.8)
    keys = [(0.0, resting["dominant"]), (begin, resting["dominant"])]
    for stroke in range(int(rng.integers(3, 8))):
        moved = at_head.copy()
        moved[:2] += 0.05 * (-1) ** stroke
        keys.append((now, moved))
        now += rng.uniform(0.12, 0.2)
    seconds = now + rng.uniform(0.8, 1.2)
    keys += [(now + 0.6, resting["dominant"]), (seconds, resting["dominant"])]
    weak = [(0.0, resting["weak"]), (seconds, resting["weak"])]
    return _utterance({"dominant": keys, "weak": weak}, seconds)


def _walking(
    resting: Utterance, signer: Signer, scene: Scene, rng: np.random.Generator
) -> np.ndarray:
    """The body comes in from the side, or leaves, and bobs while walking."""
    when = np.arange(math.ceil(resting.seconds * RATE)) / RATE
    progress = np.clip(when / (0.6 * resting.seconds), 0.0, 1.0)
    # Distance from the place before the camera, in shoulder widths; at 1.9 nothing is visible.
    away = 1.9 * (1 - progress if rng.random() < 0.5 else progress)
    side = 1 if rng.random() < 0.5 else -1
    walks = (away > 0.01) & (away < 1.89)
    bob = 0.04 * np.abs(np.sin(2 * np.pi * 1.8 * when)) * walks
    arms = _arms(resting, signer, when)
    frames = []
    for t in range(len(when)):
        shift = (
            scene.shift[0] + side * away[t] / render.HEIGHT,
            scene.shift[1] + bob[t] / render.HEIGHT,
        )
        dominant, weak = (
            motion.Arm(*(getattr(arm, field.name)[t : t + 1] for field in dataclasses.fields(arm)))
            for arm in arms
        )
        moved = dataclasses.replace(scene, shift=shift, sway=(0.0, 0.0))
        (frame,) = render.draw(
            dominant, weak, np.zeros((1, 3)), when[t : t + 1], signer, moved, SIZE, rng
        )
        frames.append(frame)
    return np.stack(frames)


def _utterance(keys: Mapping[str, Sequence[tuple[float, np.ndarray]]], seconds: float) -> Utterance:
    lines = {
        hand: TimeLine(
            np.array([seconds for seconds, _ in keys_of_hand]),
            np.stack([values for _, values in keys_of_hand]),
            np.zeros(len(keys_of_hand)),
        )
        for hand, keys_of_hand in keys.items()
    }
    return Utterance(**lines, spans=(), seconds=seconds)


def _filmed(
    utterance: Utterance, signer: Signer, scene: Scene, rng: np.random.Generator
) -> np.ndarray:
    """Return the frames of an utterance."""
    when = np.arange(math.ceil(utterance.seconds * RATE)) / RATE
    dominant, weak = _arms(utterance, signer, when)
    return render.draw(
        dominant, weak, motion.head_pose(utterance, when), when, signer, scene, SIZE, rng
    )


def _arms(utterance: Utterance, signer: Signer, when: np.ndarray) -> tuple[motion.Arm, motion.Arm]:
    """Return the dominant and the weak arm at the times `when`, in seconds."""
    return (
        motion.arm(utterance.dominant.at(when), signer, 1.0),
        motion.arm(utterance.weak.at(when), signer, -1.0),
    )
