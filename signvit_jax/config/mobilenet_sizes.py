"""Channel counts of MobileNetV3 at a width multiplier."""


def channels(count: int, width: float) -> int:
    """`count` channels times `width`, rounded to a multiple of 8.

    At least 8, and rounded up where the nearest multiple would be more than a tenth below (as in
    torchvision's `_make_divisible`).
    """
    rounded = max(8, int(count * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * count * width else rounded


def mobilenet_feature_width(width: float) -> int:
    """Channels of a frame feature of MobileNetV3-Large: six times those of its last block."""
    return 6 * channels(160, width)
