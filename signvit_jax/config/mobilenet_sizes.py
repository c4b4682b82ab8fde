"""Channel counts of MobileNetV3 at a width multiplier.

They are in this room because the checks of a config need them, and those import no JAX.
"""


def scaled_channels(count: int, multiplier: float) -> int:
    """`count` channels times `multiplier`, rounded to a multiple of 8.

    At least 8, and rounded up where the nearest multiple would be more than a tenth below (as in
    torchvision's `_make_divisible`).
    """
    rounded = max(8, int(count * multiplier + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * count * multiplier else rounded


def mobilenet_feature_channels(multiplier: float) -> int:
    """Channels of a frame feature of MobileNetV3-Large: six times those of its last block.

    Source: `lastconv_output_channels` of torchvision's `MobileNetV3`.
    """
    return 6 * scaled_channels(160, multiplier)
