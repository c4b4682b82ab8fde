"""Fixed sine and cosine tables of positions in text, time and the patch grid."""

import numpy as np
from jaxtyping import Float


def sinusoids(length: int, width: int) -> Float[np.ndarray, "length width"]:
    """Positions in text and time (Vaswani et al. 2017). `width` is even.

    Even columns are sines, odd ones cosines, with wavelengths from 2 pi to 10,000 * 2 pi.
    """
    angles = np.arange(length)[:, None] * np.exp(
        np.arange(0, width, 2) * (-np.log(10_000.0) / width)
    )
    table = np.empty((length, width), np.float32)
    table[:, 0::2] = np.sin(angles)
    table[:, 1::2] = np.cos(angles)
    return table


def sinusoids_2d(rows: int, columns: int, width: int) -> Float[np.ndarray, "patches width"]:
    """Positions in the patch grid (MoCo v3, Chen et al. 2021). `width` is a multiple of 4.

    One row per patch, the grid row by row; a quarter of the columns each is sin(y), cos(y), sin(x),
    cos(x).
    """
    quarter = width // 4
    frequencies = 10_000.0 ** (-np.arange(quarter) / quarter)
    y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    angles_y = y.reshape(-1, 1) * frequencies
    angles_x = x.reshape(-1, 1) * frequencies
    return np.concatenate(
        [np.sin(angles_y), np.cos(angles_y), np.sin(angles_x), np.cos(angles_x)], axis=1
    ).astype(np.float32)
