"""A tiny data set, written by TFDS itself in the real format, for tests of reading."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from signvit_jax.data import schema
from signvit_jax.data.keypoints import KeypointLayout


class Toy(tfds.core.GeneratorBasedBuilder):
    """A builder that writes the records of each split that it is given."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = Path(__file__).parent

    def __init__(
        self, splits: Mapping[str, Sequence[dict]], layout: KeypointLayout | None, **kwargs
    ):
        self._splits = splits
        self._layout = layout
        super().__init__(file_format="array_record", **kwargs)

    def _info(self):
        metadata = None
        if self._layout is not None:
            metadata = tfds.core.MetadataDict(keypoints=self._layout.to_json())
        return self.dataset_info_from_configs(
            features=schema.features(self._layout is not None),
            disable_shuffling=True,
            metadata=metadata,
        )

    def _split_generators(self, dl_manager):
        return {name: self._records(records) for name, records in self._splits.items()}

    def _generate_examples(self):
        raise NotImplementedError

    def _records(self, records):
        yield from enumerate(records)


def write(data_dir: Path, layout: KeypointLayout | None = None, **splits: Sequence[dict]) -> Path:
    """Build the data set `toy`; return its version folder.

    `layout`: the layout of the keypoints of the records, if they have keypoints.
    """
    builder = Toy(splits, layout, data_dir=str(data_dir))
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    return Path(builder.data_dir)


def record(
    name: str,
    num_frames: int,
    text: str = "hello there",
    fps: float = 25.0,
    gloss: str = "",
    frames: Sequence[bytes] | None = None,
) -> dict:
    """Return a record with `frames` (JPEGs), or else with `num_frames` uniform gray frames."""
    if frames is None:
        frames = [gray_jpeg(8 * k % 256) for k in range(num_frames)]
    return {
        "id": name,
        "video": list(frames),
        "fps": fps,
        "text": text,
        "gloss": gloss,
        "signer": "",
        "video_id": name,
        "start": -1.0,
        "end": -1.0,
    }


def gray_jpeg(level: int, size: int = 16) -> bytes:
    return jpeg(np.full((size, size, 3), level, np.uint8))


def jpeg(image: np.ndarray, quality: int = 95, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, **options)
    return file.getvalue()
