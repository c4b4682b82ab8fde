"""The signs as keyframes: place, rotation and shape of each hand.

Body coordinates are in shoulder widths: x to the side of the signer's dominant hand, y down from
the line of the shoulders, z toward the camera. The weak hand is on the other side, so its x is
usually negative. Angles are in degrees: 0 = fingers up, positive = leaning inward, to the midline
of the body (for either hand, so mirrored hands have equal angles). `turn` is the rotation about the
axis of the fingers: 0 shows the palm to the camera (thumb inward), 90 the edge, 180 the back of the
hand (thumb outward).
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

# Hand shapes. For thumb, index, middle, ring and little finger: (length in palm widths, angle
# toward the thumb's side in degrees, bend of the outer half in degrees).
_FOLDED = (0.0, 0.0, 0.0)
SHAPES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "fist": ((0.0, 60.0, 0.0), _FOLDED, _FOLDED, _FOLDED, _FOLDED),
    "flat": (
        (0.55, 35.0, -25.0),
        (1.1, 3.0, 0.0),
        (1.2, 1.0, 0.0),
        (1.1, -1.0, 0.0),
        (0.95, -3.0, 0.0),
    ),
    "spread": (
        (0.95, 62.0, 0.0),
        (1.15, 22.0, 0.0),
        (1.25, 3.0, 0.0),
        (1.15, -17.0, 0.0),
        (1.0, -40.0, 0.0),
    ),
    "point": ((0.0, 60.0, 0.0), (1.45, 2.0, 0.0), _FOLDED, _FOLDED, _FOLDED),
    "v": ((0.0, 60.0, 0.0), (1.4, 17.0, 0.0), (1.4, -17.0, 0.0), _FOLDED, _FOLDED),
    "o": (
        (1.05, 78.0, -70.0),
        (1.3, 5.0, 95.0),
        (1.3, 5.0, 95.0),
        (1.2, 3.0, 95.0),
        (1.0, 0.0, 95.0),
    ),
    "c": (
        (1.15, 80.0, -35.0),
        (1.35, -5.0, 65.0),
        (1.35, -5.0, 65.0),
        (1.25, -5.0, 65.0),
        (1.1, -5.0, 65.0),
    ),
    "thumb": ((1.3, 85.0, 0.0), _FOLDED, _FOLDED, _FOLDED, _FOLDED),
    "hook": ((0.0, 60.0, 0.0), (1.45, -5.0, 110.0), _FOLDED, _FOLDED, _FOLDED),
}
CHANNELS = 5 + 15  # numbers of a key: x, y, z, angle, turn, then 3 for each of the five fingers


@dataclasses.dataclass(frozen=True)
class Key:
    """One hand at one moment of a sign."""

    at: float  # 0 at the beginning of the sign, 1 at its end
    where: tuple[float, float, float]  # the middle of the palm
    shape: str  # a key of SHAPES
    angle: float = 0.0
    turn: float = 0.0

    def channels(self) -> Float[np.ndarray, "20"]:
        return np.array([*self.where, self.angle, self.turn, *np.ravel(SHAPES[self.shape])])


@dataclasses.dataclass(frozen=True)
class Sign:
    """A sign for one or two hands."""

    meaning: str
    dominant: tuple[Key, ...]
    weak: tuple[Key, ...] = ()
    seconds: float = 0.38  # without the movement into it
    head: str = ""  # movement of the head: "", "shake", "tilt" (to the dominant side), "forward"


def _path(
    shape: str,
    *points: tuple[float, float, float],
    angle: float = 0.0,
    turn: float = 0.0,
    end: str = "",
) -> tuple[Key, ...]:
    """Keys at the points, equally spaced in time; the shape changes to `end` (if any) halfway."""
    last = len(points) - 1
    return tuple(
        Key(i / last, point, end if end and 2 * i >= last else shape, angle, turn)
        for i, point in enumerate(points)
    )


def _again(keys: tuple[Key, ...], times: int = 2) -> tuple[Key, ...]:
    """Keys of a movement that is made several times: a, b -> a, b, a, b."""
    repeated = keys * times
    last = len(repeated) - 1
    return tuple(dataclasses.replace(key, at=i / last) for i, key in enumerate(repeated))


def _circle(
    shape: str,
    middle: tuple[float, float, float],
    radius: float,
    angle: float = 0.0,
    turns: float = 1.25,
) -> tuple[Key, ...]:
    """Keys on a circle around `middle`, eight for each complete turn."""
    x, y, z = middle
    count = round(8 * turns)
    around = [2 * math.pi * turns * i / count for i in range(count + 1)]
    return tuple(
        Key(i / count, (x + radius * math.sin(a), y - radius * math.cos(a), z), shape, angle)
        for i, a in enumerate(around)
    )


def mirror(keys: tuple[Key, ...]) -> tuple[Key, ...]:
    """Return the same keys for the other hand."""
    return tuple(dataclasses.replace(key, where=(-key.where[0], *key.where[1:])) for key in keys)


def _both(
    meaning: str, keys: tuple[Key, ...], seconds: float = Sign.seconds, head: str = Sign.head
) -> Sign:
    """A sign in which the weak hand mirrors the dominant one."""
    return Sign(meaning, keys, mirror(keys), seconds, head)


_PALM_UP = (
    Key(0.0, (-0.12, 0.72, 0.45), "flat", 75.0, 35.0),
    Key(1.0, (-0.12, 0.72, 0.45), "flat", 75.0, 35.0),
)

SIGNS: dict[str, Sign] = {
    # A minimal pair (two signs that differ in one thing): the same hand from the same place, moving
    # back and down, or up and out.
    "YESTERDAY": Sign(
        "thumb at the cheek, arc back and down",
        _path(
            "thumb", (0.42, -0.42, 0.3), (0.62, -0.3, 0.2), (0.66, 0.0, 0.1), angle=80.0, turn=180.0
        ),
    ),
    "TOMORROW": Sign(
        "thumb at the cheek, arc up and out",
        _path(
            "thumb",
            (0.42, -0.42, 0.3),
            (0.58, -0.66, 0.4),
            (0.85, -0.72, 0.5),
            angle=80.0,
            turn=180.0,
        ),
    ),
    # A minimal pair: pointing at oneself or away.
    "I": Sign(
        "index finger to the chest", _path("point", (0.5, 0.42, 0.45), (0.3, 0.38, 0.3), angle=85.0)
    ),
    "YOU": Sign(
        "index finger away, forward",
        _path("point", (0.35, 0.42, 0.4), (0.62, 0.4, 0.6), angle=-75.0, turn=180.0),
    ),
    # A minimal pair: chin or forehead. TEACHER is at the forehead too, with other hand shapes.
    "MOTHER": Sign(
        "spread hand taps the chin",
        _again(_path("spread", (0.36, -0.1, 0.4), (0.2, -0.2, 0.35), angle=35.0, turn=30.0), 2),
    ),
    "FATHER": Sign(
        "spread hand taps the forehead",
        _again(_path("spread", (0.38, -0.68, 0.4), (0.22, -0.76, 0.35), angle=35.0, turn=30.0), 2),
    ),
    "TEACHER": _both(
        "both O hands from the temples forward, twice",
        _again(_path("o", (0.4, -0.66, 0.3), (0.55, -0.52, 0.5), angle=10.0), 2),
        seconds=0.45,
    ),
    "BOOK": _both(
        "flat hands, palm to palm, open like a book",
        (
            Key(0.0, (0.09, 0.5, 0.5), "flat", 0.0, 95.0),
            Key(0.35, (0.1, 0.5, 0.5), "flat", 0.0, 95.0),
            Key(1.0, (0.3, 0.56, 0.5), "flat", -40.0, 10.0),
        ),
    ),
    "APPLE": Sign(
        "bent finger twists at the cheek",
        tuple(
            Key(i / 4, (0.34, -0.36, 0.3), "hook", (50.0, -5.0)[i % 2], (20.0, 60.0)[i % 2])
            for i in range(5)
        ),
        seconds=0.45,
    ),
    "HOUSE": _both(
        "flat hands draw a roof, then walls",
        _path(
            "flat", (0.14, 0.08, 0.5), (0.42, 0.32, 0.5), (0.42, 0.72, 0.5), angle=40.0, turn=20.0
        ),
        seconds=0.45,
    ),
    "CUP": Sign(
        "C hand rises from the open palm",
        _path("c", (-0.02, 0.52, 0.5), (-0.02, 0.52, 0.5), (-0.02, 0.2, 0.5), turn=20.0),
        _PALM_UP,
    ),
    "BIG": _both(
        "flat hands part in a wide arc",
        _path("flat", (0.16, 0.5, 0.5), (0.5, 0.3, 0.55), (0.8, 0.46, 0.4), angle=-5.0, turn=70.0),
    ),
    "RED": Sign(
        "index finger strokes down from the lips, twice",
        _again(_path("point", (0.13, -0.04, 0.4), (0.16, 0.2, 0.4), angle=25.0), 2),
    ),
    "TWO": Sign(
        "V hand, held up at the side",
        _path("v", (0.62, 0.12, 0.4), (0.62, 0.04, 0.45), (0.62, 0.04, 0.45)),
    ),
    "MANY": _both(
        "both fists spring open, twice",
        _again((Key(0.0, (0.48, 0.42, 0.4), "fist"), Key(1.0, (0.52, 0.26, 0.5), "spread")), 2),
        seconds=0.48,
    ),
    "BUY": Sign(
        "O hand leaves the open palm, outward",
        _path("o", (-0.02, 0.52, 0.5), (0.2, 0.4, 0.55), (0.6, 0.5, 0.55), angle=0.0),
        _PALM_UP,
    ),
    "SEE": Sign(
        "V hand from the eyes outward",
        _path(
            "v", (0.17, -0.42, 0.4), (0.17, -0.42, 0.4), (0.6, -0.26, 0.6), angle=0.0, turn=180.0
        ),
    ),
    "LIKE": Sign(
        "spread hand leaves the chest and closes",
        _path(
            "spread",
            (0.08, 0.34, 0.3),
            (0.25, 0.36, 0.45),
            (0.5, 0.42, 0.6),
            angle=55.0,
            turn=180.0,
            end="o",
        ),
    ),
    "SLEEP": Sign(
        "flat hands together at the tilted cheek",
        _path(
            "flat",
            (0.42, -0.2, 0.3),
            (0.36, -0.32, 0.25),
            (0.36, -0.32, 0.25),
            angle=35.0,
            turn=70.0,
        ),
        _path(
            "flat",
            (0.28, -0.18, 0.3),
            (0.22, -0.28, 0.28),
            (0.22, -0.28, 0.28),
            angle=-35.0,
            turn=70.0,
        ),
        head="tilt",
    ),
    "NOT": Sign(
        "flat hand zig-zags to and fro, head shakes",
        _path(
            "flat",
            (0.55, 0.02, 0.5),
            (0.2, 0.08, 0.5),
            (0.55, 0.14, 0.5),
            (0.2, 0.2, 0.5),
            turn=0.0,
        ),
        seconds=0.48,
        head="shake",
    ),
    # A minimal pair: a circle beside the shoulder or around the mouth.
    "Q": Sign(
        "index finger circles beside the shoulder",
        _circle("point", (0.72, -0.12, 0.4), 0.15),
        seconds=0.48,
        head="forward",
    ),
    "WHO": Sign(
        "index finger circles before the mouth",
        _circle("point", (0.06, -0.14, 0.4), 0.15),
        seconds=0.48,
        head="forward",
    ),
    "WHAT": _both(
        "open hands, palms up, shake outward",
        _again(_path("spread", (0.42, 0.68, 0.4), (0.6, 0.6, 0.4), angle=-60.0, turn=25.0), 2),
        seconds=0.45,
        head="forward",
    ),
}

# Places of the hands when nobody signs (REST), and of the weak hand while the other one signs alone
# (WAITING). They are given for the dominant hand; the places of the weak hand are mirrored.
REST = {
    "lap": Key(0.0, (0.16, 1.06, 0.3), "fist", 75.0, 180.0),
    "sides": Key(0.0, (0.62, 1.36, 0.0), "fist", 180.0, 90.0),
}
WAITING = Key(0.0, (0.4, 1.0, 0.35), "fist", 60.0, 180.0)
