"""Fixed sine and cosine tables: for text and time (Vaswani et al. 2017) and for the patch grid (MoCo v3's 2-D variant)."""

import numpy as np
from jaxtyping import Float


def sinusoids(length: int, width: int) -> Float[np.ndarray, "length width"]:
    """Sines in the even columns, cosines in the odd ones; wavelengths from 2 pi to 10,000 * 2 pi. `width` is even."""
    angles = np.arange(length)[:, None] * np.exp(
        np.arange(0, width, 2) * (-np.log(10_000.0) / width)
    )
    table = np.empty((length, width), np.float32)
    table[:, 0::2], table[:, 1::2] = np.sin(angles), np.cos(angles)
    return table


def sinusoids_2d(rows: int, columns: int, width: int) -> Float[np.ndarray, "patches width"]:
    """One row a patch, in reading order: a quarter each of sin(y), cos(y), sin(x), cos(x). `width` is a multiple of 4."""
    quarter = width // 4
    frequencies = 10_000.0 ** (-np.arange(quarter) / quarter)
    y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    angles_y, angles_x = y.reshape(-1, 1) * frequencies, x.reshape(-1, 1) * frequencies
    return np.concatenate(
        [np.sin(angles_y), np.cos(angles_y), np.sin(angles_x), np.cos(angles_x)], axis=1
    ).astype(np.float32)
