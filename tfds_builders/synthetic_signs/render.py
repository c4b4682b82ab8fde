"""Drawing of a moving body: polygons on a larger canvas, which is averaged down; light and noise.

Numpy computes the corners for all frames at once, and PIL only fills the polygons. One core draws
about 1,000 frames of 64 pixels per second.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from signvit_jax.data.keypoints import DRAWN
from tfds_builders.synthetic_signs import motion
from tfds_builders.synthetic_signs.motion import Arm
from tfds_builders.synthetic_signs.signer import Color, Scene, Signer

HEIGHT = 2.45  # of the image at zoom 1, in shoulder widths
SHOULDER_LINE = 0.455  # distance from the top of the image, as a share of its height
Points = Float[np.ndarray, "t n 2"]
# Where the fingers begin on a hand, thumb first, in palm widths: x to the thumb, y along the
# fingers.
ROOTS = ((0.36, -0.2), (0.36, 0.4), (0.12, 0.46), (-0.12, 0.42), (-0.36, 0.34))
INDEX_FINGER, LITTLE_FINGER = 1, 4
NOSE = (0.0, 0.2)  # in half heights of the head, as in `_on_head`
ARM_ROOT = np.array([0.0, 0.07])  # where a drawn arm begins, from the line of the shoulders


@dataclasses.dataclass(frozen=True)
class Shape:
    """A filled polygon in t frames."""

    points: Points
    color: Color
    visible: np.ndarray | None = None  # bool (t,); None: visible in every frame


def draw(
    dominant: Arm,
    weak: Arm,
    head: Float[np.ndarray, "t 3"],
    seconds: Float[np.ndarray, "t"],
    signer: Signer,
    scene: Scene,
    size: int,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "t {size} {size} 3"]:
    """Return the frames at the times `seconds`; all arrays have an entry for each.

    `head` is as from `motion.head_pose`; `size` is the height and width in pixels; `rng` draws only
    the noise.
    """
    factor = max(2, round(256 / size))
    canvas = size * factor
    sway = _sway(scene, seconds)
    shapes = [
        *_body(head, signer),
        *_arm_shapes(weak, signer, -1),
        *_arm_shapes(dominant, signer, 1),
    ]
    corners = [
        _project(shape.points, sway, signer, scene, canvas).reshape(len(seconds), -1).tolist()
        for shape in shapes
    ]
    shown = [shape.visible.tolist() if shape.visible is not None else None for shape in shapes]
    wall = _wall(scene, canvas)
    frames = np.empty((len(seconds), size, size, 3), np.uint8)
    for t in range(len(seconds)):
        image = wall.copy()
        pen = ImageDraw.Draw(image)
        for shape, points, visible in zip(shapes, corners, shown):
            if visible is None or visible[t]:
                pen.polygon(points[t], fill=shape.color)
        frames[t] = np.asarray(image.reduce(factor))
    return _lit(frames, scene, rng)


def keypoints(
    dominant: Arm,
    weak: Arm,
    head: Float[np.ndarray, "t 3"],
    seconds: Float[np.ndarray, "t"],
    signer: Signer,
    scene: Scene,
) -> Float[np.ndarray, "t 11 3"]:
    """Return where `draw` puts the points of `keypoints.DRAWN`: x and y in shares of the image.

    Their confidence is 1, also behind a hand and outside of the image. Left and right are the
    signer's own.
    """
    right, left = ((weak, -1), (dominant, 1)) if signer.left_handed else ((dominant, 1), (weak, -1))
    places = {"nose": _on_head(np.array([NOSE]), head, signer)[:, 0]}
    for name, (arm, side) in (("left", left), ("right", right)):
        places[f"{name}_shoulder"] = arm.shoulder[:, :2] + ARM_ROOT
        places[f"{name}_elbow"] = arm.elbow[:, :2]
        places[f"{name}_wrist"] = arm.wrist[:, :2]
        places[f"{name}_pinky"] = _on_hand(arm, signer, side, *ROOTS[LITTLE_FINGER])
        places[f"{name}_index"] = _on_hand(arm, signer, side, *ROOTS[INDEX_FINGER])
    points = np.stack([places[name] for name in DRAWN.points], axis=1)
    shares = _project(points, _sway(scene, seconds), signer, scene, canvas=1)
    return np.concatenate([shares, np.ones_like(shares[..., :1])], axis=-1)


def _sway(scene: Scene, seconds: Float[np.ndarray, "t"]) -> Float[np.ndarray, "t"]:
    """Return how far the body has swayed to its side, in shoulder widths."""
    return scene.sway[0] * np.sin(2 * np.pi * 0.35 * seconds + scene.sway[1])


def _project(points: Points, sway: np.ndarray, signer: Signer, scene: Scene, canvas: int) -> Points:
    """Convert body coordinates to canvas pixels.

    The dominant side of a right-handed signer is the left side of the image.
    """
    x = points[..., 0] * (1 if signer.left_handed else -1) + sway[:, None]
    y = points[..., 1]
    angle = np.deg2rad(scene.rotation)
    scale = canvas / HEIGHT * scene.zoom
    middle = canvas * (0.5 + scene.shift[0]), canvas * (SHOULDER_LINE + scene.shift[1])
    turned = np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y
    return np.stack([middle[0] + scale * turned[0], middle[1] + scale * turned[1]], axis=-1)


def _shade(color: Color, factor: float) -> Color:
    red, green, blue = (min(255, round(c * factor)) for c in color)
    return red, green, blue


# --- the parts of the body ---


def _body(head: Float[np.ndarray, "t 3"], signer: Signer) -> list[Shape]:
    t = len(head)
    half_width, height = motion.SHOULDER * signer.width, 1.75 * signer.torso
    left_side = [
        (-0.12, -0.1),
        (-half_width, -0.06),
        (-half_width - 0.1, 0.05),
        (-half_width * 0.82, 0.6),
        (-half_width * 0.85, height),
    ]
    trunk = [*left_side, *((-x, y) for x, y in reversed(left_side))]
    shirt = [Shape(_still(t, trunk), signer.shirt)]
    if signer.pattern == "stripes":
        x = half_width * 0.82
        for top in np.arange(0.12, height - 0.1, 0.24):
            bottom = top + 0.09
            stripe = [(-x, top), (x, top), (x, bottom), (-x, bottom)]
            shirt.append(Shape(_still(t, stripe), _shade(signer.shirt, 0.75)))
    neck = Shape(
        _still(t, [(-0.12, -0.45), (0.12, -0.45), (0.15, -0.06), (0.0, 0.1), (-0.15, -0.06)]),
        _shade(signer.skin, 0.86),
    )

    def on_head(outline: np.ndarray, color: Color) -> Shape:
        return Shape(_on_head(outline, head, signer), color)

    dark = _shade(signer.skin, 0.3)
    lips = tuple(np.clip(np.multiply(signer.skin, (0.8, 0.5, 0.5)), 0, 255).astype(int).tolist())
    face = [on_head(_ellipse(0.0, 0.0, 0.76, 1.0), signer.skin)]
    features = [on_head(_ellipse(x, -0.08, 0.11, 0.09, 8), dark) for x in (-0.3, 0.3)]
    features += [
        on_head(
            _box(x, -0.3, 0.16, 0.035),
            _shade(signer.hair, 0.8) if signer.hair_style != "scarf" else dark,
        )
        for x in (-0.3, 0.3)
    ]
    features += [
        on_head(_ellipse(0.0, 0.52, 0.24, 0.07, 10), lips),
        on_head(_box(*NOSE, 0.05, 0.1), _shade(signer.skin, 0.82)),
    ]
    hair = signer.hair
    fringe = _ellipse(0.0, -0.3, 0.82, 0.78)
    fringe = np.where(
        fringe[:, 1:] > -0.48, np.stack([fringe[:, 0], np.full(len(fringe), -0.48)], -1), fringe
    )
    behind, front = {
        "short": ([on_head(_ellipse(0.0, -0.2, 0.84, 0.88), hair)], [on_head(fringe, hair)]),
        "long": ([on_head(_ellipse(0.0, 0.15, 0.98, 1.25), hair)], [on_head(fringe, hair)]),
        "bun": (
            [
                on_head(_ellipse(0.0, -1.15, 0.36, 0.32), hair),
                on_head(_ellipse(0.0, -0.2, 0.84, 0.88), hair),
            ],
            [on_head(fringe, hair)],
        ),
        "bald": ([], []),
        "scarf": ([on_head(_ellipse(0.0, 0.12, 1.0, 1.22), hair)], []),
    }[signer.hair_style]
    return [*behind, *shirt, neck, *face, *features, *front]


def _on_head(
    outline: Float[np.ndarray, "n 2"], head: Float[np.ndarray, "t 3"], signer: Signer
) -> Points:
    """Place an outline on the head; return it in body coordinates.

    The coordinates of the outline begin in the middle of the face, with y down, and are in half
    heights of the head.
    """
    tilt = np.deg2rad(head[:, 2])[:, None]
    scale = 0.32 * signer.head
    x, y = outline[:, 0] * scale, outline[:, 1] * scale
    neck = 0.9 * scale  # y of the point about which the head tilts
    turned = np.stack(
        [
            np.cos(tilt) * x - np.sin(tilt) * (y - neck),
            np.sin(tilt) * x + np.cos(tilt) * (y - neck) + neck,
        ],
        axis=-1,
    )
    return turned + head[:, None, :2] + np.array([0.0, motion.HEAD[1] * signer.head])


def _arm_shapes(arm: Arm, signer: Signer, side: int) -> list[Shape]:
    sleeve = _shade(signer.shirt, 0.82)
    shoulder, elbow, wrist = arm.shoulder[:, :2], arm.elbow[:, :2], arm.wrist[:, :2]
    shoulder = shoulder + ARM_ROOT
    cuff = elbow + (wrist - elbow) * 0.86
    half = shoulder + (elbow - shoulder) * 0.65
    if signer.long_sleeves:
        limbs = [
            (elbow, wrist, 0.085, 0.07, signer.skin),
            (shoulder, elbow, 0.14, 0.115, sleeve),
            (elbow, cuff, 0.115, 0.09, sleeve),
        ]
    else:
        skin = _shade(signer.skin, 0.93)
        limbs = [
            (shoulder, elbow, 0.11, 0.09, skin),
            (elbow, wrist, 0.09, 0.07, skin),
            (shoulder, half, 0.145, 0.13, sleeve),
        ]
    return [
        *(Shape(_capsule(a, b, r0, r1), color) for a, b, r0, r1, color in limbs),
        *_hand_shapes(arm, signer, side),
    ]


def _hand_shapes(arm: Arm, signer: Signer, side: int) -> list[Shape]:
    """Return palm and fingers, twice: first a little larger and darker.

    The rim makes a hand visible in front of a face and of another hand.
    """
    unit = motion.PALM * signer.hand

    def at(x: ArrayLike, y: ArrayLike) -> Float[np.ndarray, "t 2"]:
        return _on_hand(arm, signer, side, x, y)

    pieces: list[tuple[np.ndarray, np.ndarray, float, float, np.ndarray | None]] = [
        (at(x, -0.36), at(1.12 * x, 0.34), 0.19, 0.2, None) for x in (-0.3, 0.0, 0.3)
    ]
    for finger, (x, y) in enumerate(ROOTS):
        length, angle, bend = (arm.fingers[:, finger, i] for i in range(3))
        length = np.maximum(length, 0.0)
        first, second = np.deg2rad(angle), np.deg2rad(angle + bend)
        knuckle = x + 0.55 * length * np.sin(first), y + 0.55 * length * np.cos(first)
        tip = (
            knuckle[0] + 0.45 * length * np.sin(second),
            knuckle[1] + 0.45 * length * np.cos(second),
        )
        radius = 0.15 if finger == 0 else 0.135
        seen = length > 0.12
        pieces += [
            (at(x, y), at(*knuckle), radius, radius, seen),
            (at(*knuckle), at(*tip), radius, 0.85 * radius, seen),
        ]
    rim = 0.05  # palm widths
    fill, edge = signer.skin, _shade(signer.skin, 0.55)
    return [
        Shape(_capsule(a, b, (r0 + rim) * unit, (r1 + rim) * unit), edge, seen)
        for a, b, r0, r1, seen in pieces
    ] + [
        Shape(_capsule(a, b, (r0 - rim / 2) * unit, (r1 - rim / 2) * unit), fill, seen)
        for a, b, r0, r1, seen in pieces
    ]


def _on_hand(
    arm: Arm, signer: Signer, side: int, x: ArrayLike, y: ArrayLike
) -> Float[np.ndarray, "t 2"]:
    """Convert hand coordinates to body coordinates.

    `x` (toward the thumb) and `y` (along the fingers) are in palm widths from the middle of the
    palm; each is one number, or an array with one per frame.
    """
    unit = motion.PALM * signer.hand
    facing = np.cos(np.deg2rad(arm.turn))  # +1 palm to the camera, thumb inward; -1 the back
    radians = np.deg2rad(arm.angle)
    up = np.stack([-side * np.sin(radians), -np.cos(radians)], axis=-1)
    inward = np.stack([-side * np.cos(radians), np.sin(radians)], axis=-1)
    x, y = np.broadcast_to(x, facing.shape), np.broadcast_to(y, facing.shape)
    return arm.hand[:, :2] + unit * ((x * facing)[:, None] * inward + y[:, None] * up)


# --- outlines ---


def _still(t: int, outline: ArrayLike) -> Points:
    corners = np.asarray(outline, np.float64)
    return np.broadcast_to(corners, (t, len(corners), 2))


def _ellipse(
    x: float, y: float, width: float, height: float, corners: int = 20
) -> Float[np.ndarray, "n 2"]:
    around = np.linspace(0.0, 2 * np.pi, corners, endpoint=False)
    return np.stack([x + width * np.cos(around), y + height * np.sin(around)], axis=-1)


def _box(x: float, y: float, width: float, height: float) -> Float[np.ndarray, "4 2"]:
    return np.array(
        [
            (x - width, y - height),
            (x + width, y - height),
            (x + width, y + height),
            (x - width, y + height),
        ]
    )


def _capsule(
    a: Float[np.ndarray, "t 2"], b: Float[np.ndarray, "t 2"], radius_a: float, radius_b: float
) -> Points:
    """Return the outline of a limb from `a` to `b` with round ends."""
    direction = np.arctan2(b[:, 1] - a[:, 1], b[:, 0] - a[:, 0])[:, None]
    fan = np.linspace(-np.pi / 2, np.pi / 2, 5)

    def cap(middle: np.ndarray, around: np.ndarray, radius: float) -> np.ndarray:
        return middle[:, None] + radius * np.stack([np.cos(around), np.sin(around)], axis=-1)

    return np.concatenate(
        [cap(b, direction + fan, radius_b), cap(a, direction + np.pi + fan, radius_a)], axis=1
    )


# --- the surroundings ---


def _wall(scene: Scene, canvas: int) -> Image.Image:
    first, second = scene.wall_colors
    wall = Image.new("RGB", (canvas, canvas), first)
    rng = np.random.default_rng(scene.wall_seed)
    if scene.wall == "gradient":
        angle = rng.uniform(0, 2 * np.pi)
        y, x = np.mgrid[0:canvas, 0:canvas] / canvas - 0.5
        share = np.clip(0.5 + 0.8 * (x * np.cos(angle) + y * np.sin(angle)), 0.0, 1.0)[..., None]
        wall = Image.fromarray(
            (np.array(first) * (1 - share) + np.array(second) * share).astype(np.uint8)
        )
    elif scene.wall == "clutter":
        pen = ImageDraw.Draw(wall)
        for _ in range(rng.integers(3, 9)):
            x, y = rng.uniform(-0.1, 0.9, 2) * canvas
            width, height = rng.uniform(0.06, 0.4, 2) * canvas
            share = rng.uniform(0.15, 0.9)
            color = tuple(int(a * (1 - share) + b * share) for a, b in zip(first, second))
            (pen.ellipse if rng.random() < 0.25 else pen.rectangle)(
                (x, y, x + width, y + height), fill=color
            )
    return wall


def _lit(
    frames: UInt8[np.ndarray, "t h w 3"], scene: Scene, rng: np.random.Generator
) -> UInt8[np.ndarray, "t h w 3"]:
    """Apply the color of the light, its change across the image, and the noise of the camera."""
    size = frames.shape[1]
    ramp = np.linspace(-1.0, 1.0, size, dtype=np.float32)
    light = 1.0 + scene.light[0] * ramp[None, :, None] + scene.light[1] * ramp[:, None, None]
    lit = frames * (light * np.array(scene.gain, np.float32))
    if scene.noise:
        lit += scene.noise * rng.standard_normal(lit.shape, dtype=np.float32)
    return np.clip(lit, 0, 255, out=lit).astype(np.uint8)
