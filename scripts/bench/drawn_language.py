"""Draw clips of an invented sign language, with an English translation for each clip.

Every clip shows one right-handed person from the waist up, as a webcam sees them, who signs one
sentence of two to six signs. A sign is a hand shape, a place on or before the body, and a
movement, made with one hand, with both hands, or with one hand on the other (`SIGNS`). Signs are
joined by short transitions, as in running signing.

The sign order is: time, object, subject, verb (or adjective), and at the end a negation or a
question sign. A noun signed twice is a plural, a verb signed twice is "keep doing", and an
adjective signed twice is "very". So "Why did the children draw a tree yesterday?" is signed
YESTERDAY TREE CHILD CHILD DRAW WHY.

The three splits share no English text and no signer. Signers differ in looks, build, tempo, and
habits; clips differ in background, light, and sensor noise. The output is FOLDER/<uid>.mp4 and
FOLDER/clips.csv (uid,text,gloss,signer,split), the same for the same seed.

    python scripts/bench/drawn_language.py --output=drawn --train=2400 --validation=64 --test=280
    python scripts/bench/drawn_language.py --sheet=signs.png
    python -m tfds_builders.build video_folder --data_dir=data --csv=drawn/clips.csv \
        --videos=drawn --short_side=64
    python -m signvit_jax.train --config=quickstart --workdir=runs/drawn \
        --config.data.name=video_folder --config.data.data_dir=data

The author of this script had seen neither the configs nor `synthetic_signs`. So it tests whether a
config works on data that the config was not tuned on.
"""

import argparse
import csv
import itertools
import math
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

WIDTH, HEIGHT, FPS = 160, 120, 15
ZOOM = 2  # Frames are drawn this many times larger, then reduced, for smooth edges.
SIGNERS = {"train": 80, "validation": 10, "test": 20}
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}  # of the distinct sentences
LENGTH_WEIGHTS = {2: 0.08, 3: 0.22, 4: 0.29, 5: 0.27, 6: 0.14}
REPEATED_WEIGHT = 0.3  # Share of sentences with a repeated sign, where a length has both kinds.

Color = tuple[int, int, int]
Nouns = list[tuple[str, bool]]  # each with whether it is a plural

# The signs. Lengths are in units of about a head. Each hand has its own coordinates: x points from
# the middle of the body to that hand's side, y points up, and the shoulders are at y = 0.

PLACES = {
    "forehead": (0.18, 1.12),
    "cheek": (0.58, 0.72),
    "chin": (0.05, 0.22),
    "chest": (0.08, -0.5),
    "belly": (0.45, -1.2),
    "side": (1.2, -0.05),
    "hip": (1.25, -1.15),
    "overhead": (0.85, 1.1),
    "palm": (0.05, -0.8),  # just above the passive hand
}
FACE_PLACES = ("forehead", "cheek", "chin", "overhead")
# Poses: x, y, angle in degrees, turn (1: palm to the viewer, -1: back of the hand).
PASSIVE_POSE = np.array([-0.05, -1.08, 165.0, 0.75])
REST_POSE = np.array([0.45, -2.15, 215.0, -0.6])
DURATIONS = {  # seconds of each movement, before the signer's slowness
    "hold": 0.6,
    "tap": 0.65,
    "bounce": 0.65,
    "out": 0.55,
    "down": 0.55,
    "apart": 0.6,
    "arc": 0.65,
    "circle": 0.8,
    "shake": 0.75,
    "twist": 0.75,
}


@dataclass(frozen=True)
class Sign:
    """How a sign is made: `angle` is where the fingers point, `turn` is -1 for back of hand."""

    shape: str
    place: str
    movement: str
    hands: str = "one"  # or "mirror", "parallel", "passive"
    angle: float = 100.0
    turn: float = 1.0


SIGNS = {
    "TODAY": Sign("flat", "belly", "down", "mirror", 125),
    "YESTERDAY": Sign("flat", "cheek", "out"),
    "TOMORROW": Sign("flat", "cheek", "down"),
    "I": Sign("point", "chest", "tap", angle=165, turn=-1),
    "YOU": Sign("point", "side", "out", angle=25),
    "MOTHER": Sign("spread", "chin", "tap", angle=115),
    "CHILD": Sign("flat", "hip", "bounce", angle=20, turn=0.7),
    "TEACHER": Sign("ring", "forehead", "out"),
    "BOOK": Sign("flat", "chest", "apart", "mirror", 110),
    "APPLE": Sign("ell", "cheek", "twist"),
    "KEY": Sign("ell", "palm", "twist", "passive"),
    "FLOWER": Sign("ring", "chin", "arc", angle=110),
    "DOG": Sign("vee", "chin", "tap", angle=115),
    "TREE": Sign("spread", "overhead", "shake", "mirror", 90),
    "BUY": Sign("ring", "palm", "out", "passive", 120),
    "SEEK": Sign("vee", "forehead", "circle"),
    "CARRY": Sign("fist", "belly", "arc", "parallel"),
    "DRAW": Sign("point", "palm", "shake", "passive", 135),
    "SLEEP": Sign("flat", "cheek", "hold"),
    "WAIT": Sign("spread", "belly", "shake", "mirror", 110),
    "BIG": Sign("spread", "chest", "apart", "mirror", 110),
    "OLD": Sign("fist", "chin", "down", angle=115),
    "DIRTY": Sign("fist", "chest", "down", angle=125),
    "NOT": Sign("point", "side", "shake", angle=95),
    "WHETHER": Sign("horns", "side", "circle"),
    "WHY": Sign("horns", "forehead", "out"),
}


def smooth(t: np.ndarray) -> np.ndarray:
    """Ease 0..1 in and out."""
    return t * t * (3 - 2 * t)


def movement_path(movement: str, p: np.ndarray) -> np.ndarray:
    """Return (n, 3): offsets x and y from the place, and the factor of the turn.

    `p` has the n phases of the movement, 0 to 1.
    """
    s = smooth(p)
    beat = np.abs(np.cos(2 * np.pi * p))
    x, y, turn = {
        "hold": (0, 0, 1),
        "tap": (0.2 * beat, -0.36 * beat, 1),  # touches the place twice, from below
        "bounce": (0, 0.42 * beat, 1),  # touches the place twice, from above
        "out": (0.85 * s - 0.1, 0, 1),
        "down": (0, 0.3 - 0.8 * s, 1),
        "apart": (0.9 * s + 0.15, 0, 1),
        "arc": (-0.5 * np.cos(np.pi * s), 0.42 * np.sin(np.pi * s), 1),
        "circle": (0.3 * np.cos(3 * np.pi * p), 0.3 * np.sin(3 * np.pi * p), 1),
        "shake": (0.25 * np.sin(4 * np.pi * p), 0, 1),
        "twist": (0, 0, np.cos(3 * np.pi * p)),
    }[movement]
    return np.stack([np.ones_like(p) * value for value in (x, y, turn)], axis=1)


# Hand shapes: filled outlines, drawn in order. A hand reaches from 0 (wrist) to 1 (fingertips)
# along the first coordinate; the thumb is on the positive side of the second.

FINGER_BASES = [(0.47, 0.165), (0.5, 0.055), (0.48, -0.055), (0.43, -0.165)]  # index to little
FINGER_LENGTHS = [0.42, 0.5, 0.45, 0.36]
THUMB_BASE = (0.16, 0.17)
HAND_CENTER = 0.45


def finger(
    base: tuple[float, float], angle: float, length: float, width: float = 0.125
) -> np.ndarray:
    """A finger from `base` in a direction (0 is straight, positive is to the thumb's side)."""
    turns = np.radians(np.linspace(-90, 90, 6))
    tip = np.stack([length - width / 2 + width / 2 * np.cos(turns), width / 2 * np.sin(turns)], 1)
    outline = np.concatenate([[[-0.04, width / 2], [-0.04, -width / 2]], tip])
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return outline @ np.array([[c, s], [-s, c]]) + np.array(base)


def hand_shapes() -> dict[str, list[np.ndarray]]:
    """The outlines of each hand shape."""
    palm = np.array(
        [
            [-0.03, -0.12],
            [0.12, -0.19],
            [0.46, -0.23],
            [0.52, -0.1],
            [0.52, 0.12],
            [0.48, 0.23],
            [0.12, 0.19],
            [-0.03, 0.12],
        ]
    )
    closed_palm = np.array(
        [
            [-0.03, -0.12],
            [0.12, -0.2],
            [0.52, -0.23],
            [0.6, -0.15],
            [0.62, 0.1],
            [0.55, 0.23],
            [0.12, 0.2],
            [-0.03, 0.12],
        ]
    )
    knuckles = [finger((0.4, y), 0, 0.22) for y in (-0.155, -0.05, 0.055, 0.16)]
    thumb_over = finger((0.2, 0.2), -40, 0.36, 0.14)
    thumb_out = finger(THUMB_BASE, 85, 0.44, 0.15)

    def straight(index: int, angle: float) -> np.ndarray:
        return finger(FINGER_BASES[index], angle, FINGER_LENGTHS[index])

    around = np.radians(np.linspace(0, 360, 15))
    circle = np.stack([np.cos(around), np.sin(around)], axis=1)
    ring = np.concatenate([0.31 * circle, 0.175 * circle[::-1]]) + np.array([0.68, 0.06])
    return {
        "flat": [
            finger(THUMB_BASE, 22, 0.36, 0.14),
            palm,
            *(straight(i, a) for i, a in enumerate((-1, 0, 0, 2))),
        ],
        "spread": [
            finger(THUMB_BASE, 60, 0.44, 0.14),
            palm,
            *(straight(i, a) for i, a in enumerate((20, 5, -10, -28))),
        ],
        "fist": [closed_palm, *knuckles, thumb_over],
        "point": [straight(0, 2), closed_palm, *knuckles[:3], thumb_over],
        "vee": [straight(0, 17), straight(1, -14), closed_palm, *knuckles[:2], thumb_over],
        "horns": [finger((0.43, -0.17), -28, 0.42), thumb_out, closed_palm, *knuckles[1:]],
        "ell": [straight(0, 0), thumb_out, closed_palm, *knuckles[:3]],
        "ring": [0.9 * palm, ring],
    }


SHAPES = hand_shapes()

# Sentences.

PRONOUNS = {"I": "I", "YOU": "you"}
PEOPLE = {
    "MOTHER": ("mother", "mothers"),
    "CHILD": ("child", "children"),
    "TEACHER": ("teacher", "teachers"),
}
THINGS = {
    "BOOK": ("book", "books"),
    "APPLE": ("apple", "apples"),
    "KEY": ("key", "keys"),
    "FLOWER": ("flower", "flowers"),
    "DOG": ("dog", "dogs"),
    "TREE": ("tree", "trees"),
}
TRANSITIVE = {
    "BUY": ("buy", "bought", "buying"),
    "CARRY": ("carry", "carried", "carrying"),
    "SEEK": ("look for", "looked for", "looking for"),
    "DRAW": ("draw", "drew", "drawing"),
}
INTRANSITIVE = {"SLEEP": ("sleep", "slept", "sleeping"), "WAIT": ("wait", "waited", "waiting")}
VERBS = TRANSITIVE | INTRANSITIVE
ADJECTIVES = {"BIG": "big", "OLD": "old", "DIRTY": "dirty"}
TIMES = ("", "TODAY", "YESTERDAY", "TOMORROW")
ENDINGS = ("", "NOT", "WHETHER", "WHY")


@dataclass(frozen=True)
class Sentence:
    """The signs of a sentence and its English text."""

    signs: tuple[str, ...]
    text: str

    @property
    def repeats(self) -> bool:
        """True if a sign follows itself."""
        return any(a == b for a, b in itertools.pairwise(self.signs))


def predicate_forms(
    sign: str, twice: bool, when: str, be: tuple[str, str], is_third_person: bool
) -> tuple[str, str, str]:
    """A predicate's plain form, its auxiliary, and its main part, as in ("bought", "did", "buy").

    `twice`: the sign is repeated. `be`: the forms of "be" for the subject, present and past.
    """
    if sign in ADJECTIVES:
        word = ("very " if twice else "") + ADJECTIVES[sign]
        if when == "TOMORROW":
            return f"will be {word}", "will", f"be {word}"
        present, past = be
        form = past if when == "YESTERDAY" else present
        return f"{form} {word}", form, word
    base, past, doing = VERBS[sign]
    if twice:
        base, past = f"keep {doing}", f"kept {doing}"
    if when == "TOMORROW":
        return f"will {base}", "will", base
    if when == "YESTERDAY":
        return past, "did", base
    if twice:
        return (f"keeps {doing}", "does", base) if is_third_person else (base, "do", base)
    return f"{be[0]} {doing}", be[0], doing


def translate(
    when: str, target: str, who: str, many: bool, predicate: str, twice: bool, ending: str
) -> str:
    """The English text of a sentence; `target` is the object in English, or empty.

    `many`: the subject is a plural. `twice`: the sign of the predicate is repeated.
    """
    if who in PRONOUNS:
        subject = PRONOUNS[who]
    else:
        singular, plural = (PEOPLE | THINGS)[who]
        subject = "the " + (plural if many else singular)
    be = ("am", "was") if who == "I" else ("is", "was")
    if many or who == "YOU":
        be = ("are", "were")
    plain, auxiliary, main = predicate_forms(predicate, twice, when, be, be[0] == "is")
    order = {
        "": [subject, plain],
        "NOT": [subject, auxiliary, "not", main],
        "WHETHER": [auxiliary, subject, main],
        "WHY": ["why", auxiliary, subject, main],
    }[ending]
    text = " ".join(filter(None, [*order, target, when.lower()]))
    return text[0].upper() + text[1:] + ("?" if ending in ("WHETHER", "WHY") else ".")


def noun_uses(nouns: dict[str, tuple[str, str]]) -> Nouns:
    """Each noun as a singular and as a plural."""
    return [(noun, many) for noun in nouns for many in (False, True)]


def all_sentences() -> Iterator[Sentence]:
    """Every sentence of the grammar with 2 to 6 signs and 3 to 9 English words."""
    pronouns: Nouns = [(pronoun, False) for pronoun in PRONOUNS]
    people = pronouns + noun_uses(PEOPLE)
    no_target: Nouns = [("", False)]
    clauses: list[tuple[Nouns, Nouns, Iterable[str]]] = [
        (noun_uses(THINGS), people, TRANSITIVE),
        (no_target, people, INTRANSITIVE),
        (no_target, people + noun_uses(THINGS), ADJECTIVES),
    ]
    for targets, subjects, predicates in clauses:
        for when, (thing, many_things), (who, many), predicate in itertools.product(
            TIMES, targets, subjects, predicates
        ):
            for twice, ending in itertools.product((False, True), ENDINGS):
                signs = [
                    when,
                    *[thing] * (1 + many_things),
                    *[who] * (1 + many),
                    *[predicate] * (1 + twice),
                    ending,
                ]
                target = ""
                if thing:
                    article = "an " if thing == "APPLE" else "a "
                    target = THINGS[thing][1] if many_things else article + THINGS[thing][0]
                text = translate(when, target, who, many, predicate, twice, ending)
                signs = tuple(sign for sign in signs if sign)  # without empty parts
                if 2 <= len(signs) <= 6 and 3 <= len(text.split()) <= 9:
                    yield Sentence(signs, text)


def split_sentences(seed: int) -> dict[str, list[list[Sentence]]]:
    """Split the sentences; those of a split are grouped by length and by repetition of a sign."""
    groups: dict[tuple[int, bool], list[Sentence]] = {}
    for sentence in all_sentences():
        groups.setdefault((len(sentence.signs), sentence.repeats), []).append(sentence)
    rng = np.random.default_rng([seed, 1])
    splits: dict[str, list[list[Sentence]]] = {split: [] for split in SHARES}
    for _, group in sorted(groups.items()):
        order = rng.permutation(len(group))
        start, share = 0, 0.0
        for split, part in SHARES.items():
            share += part
            stop = round(share * len(group))
            splits[split].append([group[i] for i in order[start:stop]])
            start = stop
    return splits


def pick_sentence(groups: list[list[Sentence]], rng: np.random.Generator) -> Sentence:
    """A random sentence, by the weights of its length and of a repeated sign."""
    weights = []
    for group in groups:
        length, repeats = len(group[0].signs), group[0].repeats
        weight = LENGTH_WEIGHTS[length]
        if sum(len(other[0].signs) == length for other in groups) == 2:  # the length has both kinds
            weight *= REPEATED_WEIGHT if repeats else 1 - REPEATED_WEIGHT
        weights.append(weight)
    group = groups[rng.choice(len(groups), p=np.array(weights) / sum(weights))]
    return group[rng.integers(len(group))]


# Signers and their motion.

SKIN_TONES = np.array(
    [
        (246, 214, 190),
        (230, 188, 156),
        (198, 148, 112),
        (158, 108, 76),
        (112, 76, 54),
        (84, 58, 46),
    ],
    float,
)
HAIR_COLORS = [
    (30, 24, 22),
    (58, 40, 28),
    (96, 64, 38),
    (176, 138, 84),
    (140, 140, 142),
    (120, 52, 30),
]


class Signer:
    """A person: looks, build, tempo, and habits."""

    def __init__(self, rng: np.random.Generator) -> None:
        tone = rng.uniform(0, len(SKIN_TONES) - 1)
        low = min(int(tone), len(SKIN_TONES) - 2)
        self.skin = SKIN_TONES[low] + (tone - low) * (SKIN_TONES[low + 1] - SKIN_TONES[low])
        self.skin = self.skin + rng.uniform(-6, 6, 3)
        self.hair = np.array(HAIR_COLORS[rng.integers(len(HAIR_COLORS))], float)
        self.long_hair = rng.random() < 0.45
        while True:  # A signer wears a color that hands stand out from.
            self.cloth = rng.uniform(30, 215, 3) * 0.7 + rng.uniform(9, 65)
            if np.abs(self.cloth - self.skin).sum() > 130:
                break
        self.long_sleeves = rng.random() < 0.6
        self.shoulder = rng.uniform(0.74, 0.95)
        self.waist = rng.uniform(0.6, 0.85)
        self.face_width = rng.uniform(0.37, 0.43)
        self.hand_length = rng.uniform(0.72, 0.86)
        self.place_scale = rng.uniform(0.9, 1.12)
        self.movement_scale = rng.uniform(0.85, 1.25)
        self.slowness = rng.uniform(0.85, 1.2)  # factor of all durations
        self.sag = rng.uniform(0.1, 0.3)  # how far hands sink between signs
        self.habit = rng.normal(0, [0.05, 0.05, 7.0, 0.06]).clip(
            [-0.1, -0.1, -14, -0.12], [0.1, 0.1, 14, 0.12]
        )
        self.unit = rng.uniform(26, 34) * ZOOM  # pixels to a unit
        self.middle = WIDTH * ZOOM * rng.uniform(0.45, 0.55)
        spare = HEIGHT * ZOOM - 3.45 * self.unit
        self.shoulder_line = self.unit * 1.55 + max(spare, 0) * rng.uniform(0.2, 0.8)


@dataclass
class Motion:
    """The poses and the shapes of both hands in each frame, the right hand first."""

    poses: np.ndarray  # (frames, 2 hands, 4): x, y, angle in degrees, turn
    shapes: list[tuple[str, str]]


def sign_poses(
    name: str, signer: Signer, left_before: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The poses (frames, 2 hands, 4) of a sign. `left_before`: the left hand's pose before it."""
    sign = SIGNS[name]
    seconds = DURATIONS[sign.movement] * signer.slowness * rng.uniform(0.92, 1.1)
    p = np.linspace(0, 1, max(round(np.clip(seconds, 0.5, 0.9) * FPS), 2))
    path = movement_path(sign.movement, p)
    path[:, :2] *= signer.movement_scale * rng.uniform(0.95, 1.05)
    center = np.array(PLACES[sign.place])
    if sign.place not in FACE_PLACES:
        center = center * signer.place_scale
    pose = np.array([*center, sign.angle, sign.turn]) + signer.habit
    pose += rng.normal(0, [0.02, 0.02, 3.0, 0.03])
    right = np.tile(pose, (len(p), 1))
    right[:, :2] += path[:, :2]
    right[:, 3] *= path[:, 2]
    match sign.hands:
        case "mirror":
            left = right + rng.normal(0, [0.02, 0.02, 3.0, 0.02])
        case "parallel":
            left = right.copy()
            # The x axes of the two hands point in opposite directions: this makes both hands move
            # the same way in the image.
            left[:, 0] -= 2 * path[:, 0]
        case "passive":
            left = np.tile(PASSIVE_POSE * [1, signer.place_scale, 1, 1], (len(p), 1))
        case _:  # The left hand sinks to its rest, if it is not there yet.
            s = np.clip(p * seconds / 0.4, 0, 1)[:, None]
            left = left_before + (REST_POSE - left_before) * smooth(s)
    return np.stack([right, left], axis=1)


def make_motion(
    signs: tuple[str, ...],
    signer: Signer,
    rng: np.random.Generator,
    rests: tuple[float, float] | None = None,
) -> Motion:
    """The motion of a complete clip, with transitions; some clips begin or end with hands at rest.

    `rests`: seconds of rest before and after the signs, in place of random ones.
    """
    rest = np.stack([REST_POSE, REST_POSE])
    poses: list[np.ndarray] = []
    shapes: list[tuple[str, str]] = []
    last_pose, last_shapes, last_name = rest, ("flat", "flat"), ""

    def rest_for(seconds: float) -> None:
        count = round(seconds * FPS)
        poses.append(np.tile(rest, (count, 1, 1)))
        shapes.extend([("flat", "flat")] * count)

    def move_to(pose: np.ndarray, new_shapes: tuple[str, str], again: bool) -> None:
        """Add a transition from the last pose; `again`: the same sign follows once more."""
        distance = np.abs(pose[:, :2] - last_pose[:, :2]).sum(axis=1).max()
        seconds = np.clip((0.15 + 0.05 * distance + 0.08 * again) * signer.slowness, 0.15, 0.3)
        count = max(round(seconds * FPS) - 1, 2)
        t = (np.arange(1, count + 1) / (count + 1))[:, None, None]
        between = last_pose + (pose - last_pose) * smooth(t)
        between[:, 0, 1] -= (signer.sag + 0.2 * again) * np.sin(np.pi * t[:, 0, 0])
        poses.append(between)
        shapes.extend([last_shapes] * (count // 2) + [new_shapes] * (count - count // 2))

    starts_at_rest, ends_at_rest = rng.random(2) < 0.5 if rests is None else (True, True)
    if starts_at_rest:
        rest_for(rng.uniform(0.15, 0.5) if rests is None else rests[0])
    for name in signs:
        of_sign = sign_poses(name, signer, last_pose[1], rng)
        two_hands = SIGNS[name].hands in ("mirror", "parallel")
        new_shapes = (SIGNS[name].shape, SIGNS[name].shape if two_hands else "flat")
        if poses:
            move_to(of_sign[0], new_shapes, name == last_name)
        poses.append(of_sign)
        shapes.extend([new_shapes] * len(of_sign))
        last_pose, last_shapes, last_name = of_sign[-1], new_shapes, name
    if ends_at_rest:
        move_to(rest, ("flat", "flat"), False)
        rest_for(rng.uniform(0.15, 0.5) if rests is None else rests[1])
    return Motion(np.concatenate(poses), shapes)


# Drawing.


class Scene:
    """One signer in one room under one light, with methods that draw the frames of a motion."""

    def __init__(self, signer: Signer, rng: np.random.Generator) -> None:
        self.signer = signer
        self.light = rng.uniform(0.82, 1.08) * (1 + rng.uniform(-0.05, 0.05) * np.array([1, 0, -1]))
        while True:  # The wall differs from the skin, so that hands stand out.
            wall = rng.uniform(60, 225) + rng.uniform(-28, 28, 3)
            if np.abs(wall - signer.skin).sum() > 70:
                break
        self.noise = rng.normal(0, rng.uniform(1, 4), (HEIGHT + 8, WIDTH + 8, 3)).clip(-12, 12)
        self.noise = self.noise.round().astype(np.int8).view(np.uint8)
        self.shifts = rng.integers(0, 9, (1024, 2))
        self.sway = rng.uniform([0.02, 2.0, 0], [0.05, 5.0, 6.3], (2, 3))  # size, pace, start
        self.base = self.draw_room(wall, rng)
        self.draw_body()
        self.head, self.head_corner = self.draw_head()

    def color(self, rgb: np.ndarray, factor: float = 1.0) -> Color:
        """A color in this light, with room for noise at both ends."""
        red, green, blue = (np.clip(rgb * factor * self.light, 0, 255) * 0.88 + 14).astype(int)
        return int(red), int(green), int(blue)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The pixel of a point in the right hand's coordinates.

        The signer faces us: that hand is on the left of the image.
        """
        signer = self.signer
        return signer.middle - signer.unit * x, signer.shoulder_line - signer.unit * y

    def draw_room(self, wall: np.ndarray, rng: np.random.Generator) -> Image.Image:
        """A wall under uneven light, with up to two rectangles on it."""
        slope_x, slope_y = rng.uniform(-0.12, 0.12, 2)
        x = np.linspace(-1, 1, WIDTH * ZOOM)[None, :, None]
        y = np.linspace(-1, 1, HEIGHT * ZOOM)[:, None, None]
        pixels = np.array(self.color(wall)) * (1 + slope_x * x + slope_y * y)
        image = Image.fromarray(pixels.clip(14, 240).astype(np.uint8))
        draw = ImageDraw.Draw(image)
        for _ in range(rng.integers(0, 3)):  # pictures, doors, and shelves
            left, top = rng.uniform(-0.1, 0.9) * image.width, rng.uniform(-0.1, 0.5) * image.height
            right = left + rng.uniform(0.1, 0.3) * image.width
            bottom = top + rng.uniform(0.2, 0.9) * image.height
            draw.rectangle((left, top, right, bottom), self.color(wall, rng.uniform(0.8, 1.15)))
        return image

    def draw_body(self) -> None:
        """Draw the neck, the trunk, and long hair into the room."""
        draw, signer = ImageDraw.Draw(self.base), self.signer
        half = [
            (0.2, 0.2),
            (signer.shoulder * 0.75, 0.1),
            (signer.shoulder + 0.1, -0.12),
            (signer.shoulder + 0.02, -0.8),
            (signer.waist, -1.7),
            (signer.waist + 0.1, -3),
        ]
        if signer.long_hair:
            draw.ellipse((*self.at(0.52, 1.3), *self.at(-0.52, -0.1)), self.color(signer.hair))
        outline = [*(self.at(*p) for p in half), *(self.at(-x, y) for x, y in reversed(half))]
        draw.polygon(outline, self.color(signer.cloth), self.color(signer.cloth, 0.6))
        neck = [
            self.at(0.19, 0.5),
            self.at(-0.19, 0.5),
            self.at(-0.21, 0.14),
            self.at(0, 0.02),
            self.at(0.21, 0.14),
        ]
        draw.polygon(neck, self.color(signer.skin, 0.82))

    def draw_head(self) -> tuple[Image.Image, np.ndarray]:
        """A separate image of the head, which moves a little, and its top left corner."""
        signer, unit = self.signer, self.signer.unit
        image = Image.new("RGBA", (int(unit * 1.1), int(unit * 1.3)))
        draw = ImageDraw.Draw(image)

        def oval(x: float, y: float, across: float, high: float, color: Color) -> None:
            """Draw an ellipse; its center is given relative to the middle of the face."""
            left, top = (0.55 - x - across) * unit, (0.65 - y - high) * unit
            draw.ellipse((left, top, left + 2 * across * unit, top + 2 * high * unit), color)

        wide = signer.face_width
        skin, dark = self.color(signer.skin, 0.96), self.color(signer.skin, 0.6)
        oval(0, 0.1, wide + 0.05, 0.5, self.color(signer.hair))
        oval(0, -0.06, wide + 0.01, 0.515, dark)
        oval(0, -0.06, wide - 0.01, 0.495, skin)
        oval(0, 0.46, wide * 0.8, 0.13, self.color(signer.hair))
        for side in (-1, 1):
            oval(side * 0.16, 0.06, 0.055, 0.035, self.color(np.array([230.0, 230, 225])))
            oval(side * 0.16, 0.06, 0.03, 0.035, self.color(np.array([40.0, 30, 25])))
            oval(side * 0.16, 0.15, 0.08, 0.02, self.color(signer.hair, 0.9))
        oval(0, -0.1, 0.04, 0.05, self.color(signer.skin, 0.8))
        oval(0, -0.28, 0.11, 0.03, self.color(signer.skin * [0.8, 0.5, 0.5]))
        return image, np.array(self.at(0.55, 0.78 + 0.65))

    def arm_joints(self, poses: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pixels of one arm's shoulder, elbow, and wrist in each frame.

        `side` is 1 for the right arm, -1 for the left.
        """
        signer = self.signer
        angle = np.radians(poses[:, 2])
        fingers = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        wrist = poses[:, :2] - HAND_CENTER * signer.hand_length * fingers
        lift = np.clip((wrist[:, 1] + 1.3) / 2.3, 0, 1)
        elbow = np.stack([signer.shoulder + 0.15 + 0.3 * lift, -1.3 + 0.5 * lift], axis=1)
        gap = wrist - elbow
        length = np.hypot(gap[:, 0], gap[:, 1])[:, None]
        elbow += gap * np.clip(1 - 1.2 / np.maximum(length, 1e-6), 0, 1)
        shoulder = np.tile([signer.shoulder - 0.02, -0.12], (len(poses), 1))
        flip = np.array([-side, -1]) * signer.unit
        origin = np.array([signer.middle, signer.shoulder_line])
        return shoulder * flip + origin, elbow * flip + origin, wrist * flip + origin

    def hand_pixels(
        self, poses: np.ndarray, wrists: np.ndarray, shapes: list[str], side: int
    ) -> list[list[list[float]]]:
        """For each frame, the outlines of one hand as flat lists of pixels."""
        angle = np.radians(poses[:, 2])
        turn = np.where(poses[:, 3] < 0, -1, 1) * np.clip(np.abs(poses[:, 3]), 0.35, 1)
        along = np.stack([-side * np.cos(angle), -np.sin(angle)], axis=1)
        across = np.stack([side * np.sin(angle), -np.cos(angle)], axis=1) * turn[:, None]
        axes = np.stack([along, across], axis=1) * self.signer.unit * self.signer.hand_length
        return [
            [(part @ axes[i] + wrists[i]).ravel().tolist() for part in SHAPES[shape]]
            for i, shape in enumerate(shapes)
        ]

    def frames(self, motion: Motion) -> Iterator[np.ndarray]:
        """The frames of a motion, as arrays of RGB bytes."""
        signer, unit = self.signer, self.signer.unit
        skin, skin_edge = self.color(signer.skin, 1.05), self.color(signer.skin, 0.42)
        upper, upper_edge = self.color(signer.cloth, 0.9), self.color(signer.cloth, 0.55)
        lower, lower_edge = (upper, upper_edge) if signer.long_sleeves else (skin, skin_edge)
        arms, hands = [], []
        for hand, side in ((1, -1), (0, 1)):  # The left arm is behind the right one.
            poses = motion.poses[:, hand]
            shoulder, elbow, wrist = self.arm_joints(poses, side)
            arms.append(
                (
                    bone(shoulder, elbow, 0.2 * unit, 0.16 * unit),
                    bone(elbow, wrist, 0.16 * unit, 0.1 * unit),
                    elbow,
                )
            )
            hands.append(self.hand_pixels(poses, wrist, [s[hand] for s in motion.shapes], side))
        seconds = np.arange(len(motion.poses)) / FPS
        sway = [size * unit * np.sin(pace * seconds + start) for size, pace, start in self.sway]
        corners = np.round(self.head_corner + np.stack(sway, axis=1)).astype(int).tolist()
        radius = 0.16 * unit
        for i, corner in enumerate(corners):
            image = self.base.copy()
            image.paste(self.head, tuple(corner), self.head)
            draw = ImageDraw.Draw(image)
            for upper_arm, forearm, elbow in arms:
                draw.polygon(upper_arm[i].tolist(), upper, upper_edge)
                draw.polygon(forearm[i].tolist(), lower, lower_edge)
                x, y = elbow[i]
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), upper)
            for outlines in hands:
                for outline in outlines[i]:
                    draw.polygon(outline, skin, skin_edge)
            row, column = self.shifts[i % len(self.shifts)]
            noise = self.noise[row : row + HEIGHT, column : column + WIDTH]
            # Sums of uint8 wrap around, so that noise of 255 subtracts 1: noise can be negative.
            yield np.asarray(image.reduce(ZOOM)) + noise


def bone(start: np.ndarray, end: np.ndarray, start_radius: float, end_radius: float) -> np.ndarray:
    """The corners of a part of an arm, (frames, 8): x and y of the first corner, and so on."""
    gap = end - start
    normal = np.stack([-gap[:, 1], gap[:, 0]], axis=1)
    normal /= np.maximum(np.hypot(gap[:, 0], gap[:, 1]), 1e-6)[:, None]
    corners = [
        start + start_radius * normal,
        end + end_radius * normal,
        end - end_radius * normal,
        start - start_radius * normal,
    ]
    return np.concatenate(corners, axis=1)


def write_video(path: Path, frames: Iterator[np.ndarray]) -> None:
    """Write frames as an H.264 video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"preset": "superfast", "crf": "23", "threads": "1"}
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def write_clips(output: Path, counts: dict[str, int], seed: int) -> None:
    """Draw all clips of all splits and list them in clips.csv."""
    output.mkdir(parents=True, exist_ok=True)
    sentences = split_sentences(seed)
    done, total, started = 0, sum(counts.values()), time.monotonic()
    with open(output / "clips.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["uid", "text", "gloss", "signer", "split"])
        for number, (split, count) in enumerate(counts.items()):
            signers = [
                Signer(np.random.default_rng([seed, 2, number, i])) for i in range(SIGNERS[split])
            ]
            for i in range(count):
                rng = np.random.default_rng([seed, 3, number, i])
                sentence = pick_sentence(sentences[split], rng)
                who = i % len(signers)
                motion = make_motion(sentence.signs, signers[who], rng)
                uid = f"{split}-{i:05d}"
                write_video(output / f"{uid}.mp4", Scene(signers[who], rng).frames(motion))
                rows.writerow(
                    [uid, sentence.text, " ".join(sentence.signs), f"{split}-{who:02d}", split]
                )
                done += 1
                if done % 100 == 0 or done == total:
                    rate = done / (time.monotonic() - started)
                    print(f"{done} of {total} clips, {rate:.1f} a second", file=sys.stderr)


def write_sheet(path: Path, seed: int) -> None:
    """Draw a contact sheet: six frames of each sign, each sign by a different signer."""
    columns, shown, label = 2, 6, 12
    rows = math.ceil(len(SIGNS) / columns)
    sheet = Image.new("RGB", (columns * (shown * WIDTH + 8), rows * (HEIGHT + label)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (name, sign) in enumerate(SIGNS.items()):
        signer = Signer(np.random.default_rng([seed, 2, 0, i]))
        rng = np.random.default_rng([seed, 4, i])
        poses = sign_poses(name, signer, REST_POSE, rng)
        both = sign.hands in ("mirror", "parallel")
        motion = Motion(poses, [(sign.shape, sign.shape if both else "flat")] * len(poses))
        frames = list(Scene(signer, rng).frames(motion))
        left, top = i % columns * (shown * WIDTH + 8), i // columns * (HEIGHT + label)
        draw.text(
            (left + 2, top),
            f"{name}: {sign.shape}, {sign.place}, {sign.movement}, {sign.hands}",
            fill="black",
        )
        for j, k in enumerate(np.linspace(0, len(frames) - 1, shown).round().astype(int)):
            sheet.paste(Image.fromarray(frames[k]), (left + j * WIDTH, top + label))
    sheet.save(path)


def main() -> None:
    """Write the sheet and the clips that the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, help="folder for the clips")
    for split in SIGNERS:
        parser.add_argument(f"--{split}", type=int, default=0, help=f"number of {split} clips")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of the signs here")
    args = parser.parse_args()
    if not args.output and not args.sheet:
        parser.error("give --output, --sheet, or both")
    if args.sheet:
        write_sheet(args.sheet, args.seed)
    if args.output:
        counts = {split: getattr(args, split) for split in SIGNERS}
        write_clips(args.output, counts, args.seed)


if __name__ == "__main__":
    main()
