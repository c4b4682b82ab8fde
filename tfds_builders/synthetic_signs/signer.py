"""Signers and scenes, drawn from a seeded generator.

The defaults are an average signer in front of a plain wall.
"""

import colorsys
import dataclasses

import numpy as np

Color = tuple[int, int, int]

SKINS: tuple[Color, ...] = (
    (250, 220, 196),
    (236, 196, 164),
    (222, 172, 132),
    (196, 142, 104),
    (166, 112, 78),
    (132, 86, 60),
    (98, 64, 46),
)
HAIRS: tuple[Color, ...] = (
    (22, 18, 18),
    (52, 36, 26),
    (92, 60, 36),
    (140, 88, 44),
    (196, 158, 96),
    (130, 130, 132),
    (150, 60, 34),
)
HAIR_STYLES = ("short", "long", "bun", "bald", "scarf")
NUM_SIGNERS = {"train": 120, "validation": 24, "test": 24}


@dataclasses.dataclass(frozen=True)
class Signer:
    """A person: proportions, as factors of the average, and style of signing."""

    name: str = "average"
    left_handed: bool = False
    width: float = 1.0  # of the shoulders
    torso: float = 1.0  # height of the torso
    arm: float = 1.0  # length of the arms
    head: float = 1.0  # size of the head
    hand: float = 1.0  # size of the hands
    skin: Color = SKINS[1]
    hair: Color = HAIRS[0]
    hair_style: str = "short"
    shirt: Color = (40, 70, 130)
    long_sleeves: bool = True
    pattern: str = "plain"  # or "stripes"
    space: float = 1.0  # size of the signing space in front of the trunk
    amplitude: float = 1.0  # size of the movement within a sign
    offset: tuple[float, float] = (0.0, 0.0)  # shift of all signs, in shoulder widths
    lean: float = 0.0  # degrees added to every hand's angle
    tempo: float = 1.0  # speed of signing
    flow: float = 0.4  # 0 = stops between movement and sign, 1 = never stops
    jitter: float = 0.0  # standard deviation of the place of a sign, in shoulder widths
    rest: str = "lap"  # or "sides": where the hands are when nobody signs


@dataclasses.dataclass(frozen=True)
class Scene:
    """The recording of a clip: camera, wall and light."""

    tempo: float = 1.0  # speed of signing in this clip, a factor on the signer's
    zoom: float = 1.0
    rotation: float = 0.0  # degrees
    shift: tuple[float, float] = (0.0, 0.0)  # share of the image
    sway: tuple[float, float] = (0.0, 0.0)  # of the body: shoulder widths, phase in radians
    wall: str = "plain"  # or "gradient", "clutter"
    wall_colors: tuple[Color, Color] = ((190, 196, 200), (150, 156, 160))
    wall_seed: int = 0
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)  # of the three colors
    # Change of brightness from the middle to the right edge, and to the lower edge.
    light: tuple[float, float] = (0.0, 0.0)
    noise: float = 0.0  # standard deviation, where 255 is full brightness


def draw_signer(rng: np.random.Generator, name: str) -> Signer:
    """Draw a person; 1 in 8 is left-handed."""
    skin = SKINS[rng.integers(len(SKINS))]
    style = str(rng.choice(HAIR_STYLES, p=[0.35, 0.3, 0.13, 0.1, 0.12]))
    return Signer(
        name=name,
        left_handed=bool(rng.random() < 0.125),
        width=rng.uniform(0.9, 1.12),
        torso=rng.uniform(0.92, 1.08),
        arm=rng.uniform(0.97, 1.08),
        head=rng.uniform(0.92, 1.1),
        hand=rng.uniform(0.9, 1.15),
        skin=skin,
        hair=_vivid(rng) if style == "scarf" else HAIRS[rng.integers(len(HAIRS))],
        hair_style=style,
        shirt=_apart(rng, skin, 170),
        long_sleeves=bool(rng.random() < 0.65),
        pattern="stripes" if rng.random() < 0.2 else "plain",
        space=rng.uniform(0.85, 1.15),
        amplitude=rng.uniform(0.85, 1.2),
        offset=(rng.uniform(-0.04, 0.04), rng.uniform(-0.04, 0.04)),
        lean=rng.uniform(-8.0, 8.0),
        tempo=rng.uniform(0.88, 1.15),
        flow=rng.uniform(0.1, 0.8),
        jitter=rng.uniform(0.005, 0.025),
        rest=str(rng.choice(["lap", "sides"])),
    )


def draw_scene(rng: np.random.Generator, signer: Signer) -> Scene:
    """Draw the recording of a clip; the wall usually has a color far from that of the skin."""
    wall = _apart(rng, signer.skin, 110 if rng.random() < 0.85 else 40)
    return Scene(
        tempo=rng.uniform(0.9, 1.12),
        zoom=rng.uniform(0.9, 1.1),
        rotation=rng.uniform(-4.0, 4.0),
        shift=(rng.uniform(-0.06, 0.06), rng.uniform(-0.03, 0.03)),
        sway=(rng.uniform(0.0, 0.03), rng.uniform(0.0, 6.28)),
        wall=str(rng.choice(["plain", "gradient", "clutter"], p=[0.35, 0.35, 0.3])),
        wall_colors=(wall, _apart(rng, signer.skin, 90)),
        wall_seed=int(rng.integers(2**31)),
        gain=_three(rng.uniform(0.8, 1.05) * rng.uniform(0.94, 1.06, 3)),
        light=(rng.uniform(-0.15, 0.15), rng.uniform(-0.12, 0.12)),
        noise=rng.uniform(0.0, 7.0),
    )


def _three(values: np.ndarray) -> tuple[float, float, float]:
    first, second, third = values.tolist()
    return first, second, third


def _vivid(rng: np.random.Generator) -> Color:
    """Draw a color by hue, saturation and value."""
    red, green, blue = colorsys.hsv_to_rgb(
        rng.random(), rng.uniform(0.15, 0.9), rng.uniform(0.12, 0.95)
    )
    return round(255 * red), round(255 * green), round(255 * blue)


def _apart(rng: np.random.Generator, other: Color, distance: int) -> Color:
    """Draw a color at least `distance` from `other`.

    The distance is the sum of absolute differences of red, green and blue: 765 from black to white.
    """
    while True:
        color = _vivid(rng)
        if sum(abs(a - b) for a, b in zip(color, other)) >= distance:
            return color
