"""From signs to a moving body: keyframes, smooth movement between them, and inverse kinematics.

Lengths are in the body coordinates of `signs`, so in shoulder widths.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from tfds_builders.synthetic_signs.signer import Signer
from tfds_builders.synthetic_signs.signs import CHANNELS, REST, SIGNS, WAITING, Key, mirror

MAX_SECONDS = 5.1  # of a clip: 64 frames at 12.5 a second
STILL = 0.16  # seconds of rest at either end of a clip
SHOULDER = 0.5  # distance from the midline of the body
UPPER_ARM, FOREARM = 0.78, 0.7  # lengths
PALM = 0.27  # width
WRIST = 0.62  # distance from the middle of the palm, in palm widths
HEAD = (0.0, -0.6, 0.0)  # its middle


@dataclasses.dataclass(frozen=True)
class TimeLine:
    """Keyframes of one hand.

    `seconds` are their times. `values` have the channels of `signs.CHANNELS`, already placed on the
    signer's body. `flow` is the share of the speed that is kept at each key, 0 to 1.
    """

    seconds: Float[np.ndarray, "k"]
    values: Float[np.ndarray, "k c"]
    flow: Float[np.ndarray, "k"]

    def at(self, when: Float[np.ndarray, "t"]) -> Float[np.ndarray, "t c"]:
        """Interpolate the values at the times `when`, in seconds, by cubic Hermite splines.

        The slope at a key is the one between its neighbors, times `flow`.
        """
        s, v = self.seconds, self.values
        slope = np.zeros_like(v)
        slope[1:-1] = (v[2:] - v[:-2]) / (s[2:] - s[:-2])[:, None] * self.flow[1:-1, None]
        i = np.clip(np.searchsorted(s, when, side="right") - 1, 0, len(s) - 2)  # the key before
        gap = (s[i + 1] - s[i])[:, None]
        u = np.clip((when - s[i])[:, None] / gap, 0.0, 1.0)  # 0 at key i, 1 at key i + 1
        ahead = u * u * (3 - 2 * u)  # weight of the value at key i + 1
        return (
            v[i] * (1 - ahead)
            + v[i + 1] * ahead
            + gap * u * (1 - u) * ((1 - u) * slope[i] - u * slope[i + 1])
        )


@dataclasses.dataclass(frozen=True)
class Utterance:
    """A signed sentence.

    `spans` are (gloss, start, end) in seconds from the first to the last key of each sign, without
    the movement into it.
    """

    dominant: TimeLine
    weak: TimeLine
    spans: tuple[tuple[str, float, float], ...]
    seconds: float


@dataclasses.dataclass(frozen=True)
class Arm:
    """One arm at t times, in body coordinates.

    `hand` is the middle of the palm. `angle` and `turn` are in degrees, as `signs` explains;
    `fingers` are as in `signs.SHAPES`.
    """

    shoulder: Float[np.ndarray, "t 3"]
    elbow: Float[np.ndarray, "t 3"]
    wrist: Float[np.ndarray, "t 3"]
    hand: Float[np.ndarray, "t 3"]
    angle: Float[np.ndarray, "t"]
    turn: Float[np.ndarray, "t"]
    fingers: Float[np.ndarray, "t 5 3"]


def place(where: Float[np.ndarray, "*n 3"], signer: Signer) -> Float[np.ndarray, "*n 3"]:
    """Return a sign's coordinates on this body.

    Near the face they follow the size of the head, below it that of the trunk and signing space.
    """
    x, y, z = np.moveaxis(np.asarray(where, np.float64), -1, 0)
    at_trunk = np.clip((y + 0.2) / 0.4, 0.0, 1.0)  # 0 at the face, 1 in front of the trunk
    size = 1.0 + (signer.space - 1.0) * at_trunk
    width = signer.head + (signer.width - signer.head) * at_trunk
    height = np.where(y < 0, signer.head, signer.torso * size)
    shift_x, shift_y = signer.offset
    return np.stack(
        [x * width * size + shift_x * at_trunk, y * height + shift_y * at_trunk, z], axis=-1
    )


def utter(
    glosses: Sequence[str],
    signer: Signer,
    tempo: float = 1.0,
    rng: np.random.Generator | None = None,
) -> Utterance:
    """Return the movement that signs the glosses without pauses, in at most `MAX_SECONDS`.

    `tempo` divides all times. `rng` draws the jitter of each sign; None: no jitter.
    """
    draw = rng.normal if rng is not None else lambda *_: 0.0
    rest = _at_rest(signer)
    waiting = _values(mirror((WAITING,)), signer)[0]
    now = STILL
    # Hand -> its keyframes so far: (seconds, channels, flow).
    tracks = {hand: [(0.0, rest[hand], 0.0), (now, rest[hand], 0.0)] for hand in rest}
    spans = []
    for gloss in glosses:
        sign = SIGNS[gloss]
        length = sign.seconds * (1.0 + np.clip(draw(0.0, 0.06), -0.15, 0.15))
        keys = {
            "dominant": _values(sign.dominant, signer, draw),
            "weak": _values(sign.weak, signer, draw) if sign.weak else None,
        }
        distance = max(  # of the hand that is farther from its place in the sign
            np.linalg.norm(values[0, :3] - tracks[hand][-1][1][:3])
            for hand, values in keys.items()
            if values is not None
        )
        # The movement into the sign: a longer way takes longer, but less than proportionally.
        now += 0.1 + 0.12 * distance
        for hand, values in keys.items():
            track = tracks[hand]
            last_seconds, last_channels, _ = track[-1]
            is_waiting = np.array_equal(last_channels, waiting)
            if values is None:  # the sign does not use this hand, which goes to the waist and waits
                if not is_waiting:
                    track.append((now + 0.5 * length, waiting, 0.0))
                continue
            if is_waiting:  # it waits until the previous sign ends
                track.append((max(spans[-1][2], last_seconds + 1e-3), waiting, 0.0))
            times = now + length * np.array([key.at for key in getattr(sign, hand)])
            last = len(values) - 1
            for i, (seconds, channels) in enumerate(zip(times, values)):
                track.append((seconds, channels, signer.flow if i in (0, last) else 1.0))
        spans.append((gloss, now, now + length))
        now += length
    home = now + 0.2 + 0.1 * np.linalg.norm(tracks["dominant"][-1][1][:3] - rest["dominant"][:3])
    end = home + STILL
    scale = min(1.0 / (tempo * signer.tempo), MAX_SECONDS / end)
    lines = {}
    for hand, keys in tracks.items():
        if np.array_equal(keys[-1][1], waiting):
            keys.append((max(now, keys[-1][0] + 1e-3), waiting, 0.0))
        seconds, values, flow = zip(*keys, (home, rest[hand], 0.0), (end, rest[hand], 0.0))
        lines[hand] = TimeLine(np.array(seconds) * scale, np.stack(values), np.array(flow))
    return Utterance(
        **lines,
        spans=tuple((gloss, a * scale, b * scale) for gloss, a, b in spans),
        seconds=end * scale,
    )


def idle(signer: Signer, rng: np.random.Generator) -> Utterance:
    """Return 1.5 to 5 seconds in which nobody signs.

    The hands rest; in half of the cases one of them fidgets.
    """
    seconds = rng.uniform(1.5, MAX_SECONDS - 0.1)
    start = rng.uniform(0.2, seconds - 1.2)
    fidget = (
        rng.uniform((-0.25, -0.3, 0.0), (0.25, 0.05, 0.1)) if rng.random() < 0.5 else np.zeros(3)
    )
    moving = rng.choice(["dominant", "weak"])
    lines = {}
    for hand, rest in _at_rest(signer).items():
        moved = rest.copy()
        moved[:3] += fidget * (hand == moving)
        lines[hand] = TimeLine(
            np.array([0.0, start, start + 0.5, start + 1.0, seconds]),
            np.stack([rest, rest, moved, rest, rest]),
            np.zeros(5),
        )
    return Utterance(**lines, spans=(), seconds=seconds)


def _at_rest(signer: Signer) -> dict[str, Float[np.ndarray, "c"]]:
    rest = (REST[signer.rest],)
    return {"dominant": _values(rest, signer)[0], "weak": _values(mirror(rest), signer)[0]}


def _values(
    keys: Sequence[Key], signer: Signer, draw: Callable[..., float] = lambda *_: 0.0
) -> Float[np.ndarray, "k c"]:
    """Return the channels of keys on the signer's body; `draw` (mean, deviation) gives jitter."""
    values = np.stack([key.channels() for key in keys])
    middle = values[:, :3].mean(axis=0)
    values[:, :3] = middle + (values[:, :3] - middle) * signer.amplitude
    values[:, :3] = place(values[:, :3], signer) + signer.jitter * np.array(
        [draw(0.0, 1.0), draw(0.0, 1.0), 0.0]
    )
    values[:, 3] += signer.lean + 200.0 * signer.jitter * draw(0.0, 1.0)
    return values


def arm(track: Float[np.ndarray, "t c"], signer: Signer, side: float) -> Arm:
    """Return the arm for the hand of `track`; `side` is +1 for the dominant, -1 for the weak arm.

    Shoulder and wrist leave a circle of places for the elbow; its lowest point, moved a little
    outward, looks natural. A wrist out of reach is moved toward the shoulder, and the hand with it.
    """
    angle, turn, fingers = track[:, 3], track[:, 4], track[:, 5:CHANNELS].reshape(-1, 5, 3)
    radians = np.deg2rad(angle)
    # Fingers up is -y; leaning inward is toward the midline, -side in x.
    along = np.stack([-side * np.sin(radians), -np.cos(radians), np.zeros_like(radians)], axis=-1)
    shoulder = np.broadcast_to(np.array([side * SHOULDER * signer.width, 0.0, 0.0]), along.shape)
    back = WRIST * PALM * signer.hand * along
    upper, fore = UPPER_ARM * signer.arm, FOREARM * signer.arm
    reach = track[:, :3] - back - shoulder
    distance = np.linalg.norm(reach, axis=-1, keepdims=True)
    span = np.clip(distance, abs(upper - fore) + 1e-3, 0.995 * (upper + fore))
    line = reach / np.maximum(distance, 1e-6)
    wrist = shoulder + line * span
    low = np.clip(wrist[:, 1] / 0.9, 0.0, 1.0)  # elbows go back when the hands are low
    pole = np.stack([np.full_like(low, 0.35 * side), np.ones_like(low), 0.1 - low], axis=-1)
    # The unit vector from the line between shoulder and wrist to the elbow, at right angles to it.
    outward = pole - line * np.sum(line * pole, axis=-1, keepdims=True)
    outward /= np.maximum(np.linalg.norm(outward, axis=-1, keepdims=True), 1e-6)
    # How far along that line, from the shoulder, the point nearest to the elbow is.
    foot = (upper**2 - fore**2 + span**2) / (2 * span)
    elbow = shoulder + line * foot + outward * np.sqrt(np.maximum(upper**2 - foot**2, 0.0))
    return Arm(shoulder, elbow, wrist, wrist + back, angle, turn, fingers)


def head_pose(utterance: Utterance, when: Float[np.ndarray, "t"]) -> Float[np.ndarray, "t 3"]:
    """Return the pose of the head at each time: (shift to the dominant side, shift down, tilt).

    Shifts are in shoulder widths; the tilt is to the dominant side, in degrees.
    """
    pose = np.zeros((len(when), 3))
    for gloss, start, end in utterance.spans:
        u = (when - start) / (end - start)  # 0 at the first key of the sign, 1 at its last
        # 1 during the sign; it rises before it and falls after it, for 0.4 of its length.
        strength = np.clip(np.minimum(u + 0.4, 1.4 - u) / 0.4, 0.0, 1.0)
        match SIGNS[gloss].head:
            case "shake":
                pose[:, 0] += 0.06 * strength * np.sin(4 * np.pi * u)
            case "tilt":
                pose[:, 2] += 14.0 * strength
            case "forward":
                pose[:, 1] += 0.05 * strength
    return pose
