"""Channel counts of MobileNetV3 at a width multiplier."""


def channels(count: int, width: float) -> int:
    """MobileNet's channels times `width`: the nearest multiple of 8, at least 8 and no more than a tenth below."""
    rounded = max(8, int(count * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * count * width else rounded


def mobilenet_feature_width(width: float) -> int:
    """Channels of a frame feature of MobileNetV3-Large: six times those of its last block."""
    return 6 * channels(160, width)
