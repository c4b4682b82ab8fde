"""A built TFDS data set, read record by record without TensorFlow.

TFDS says which shards a split has; ArrayRecord reads a record by its number. JPEG frames stay encoded: the caller decodes those that it samples.
"""

import contextlib
import functools
import hashlib
import json
import logging
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource

from signvit_jax.data import schema
from signvit_jax.data.schema import IndexEntry
from signvit_jax.errors.base import SignVitError
from signvit_jax.files.local_paths import ALLOWED, is_address

logger = logging.getLogger(__name__)

_VERSION = re.compile(r"\d+\.\d+\.\d+")
_INFO_FILE = "dataset_info.json"
_REPORT_FILE = "build_report.json"
# Records that an index is held against: 1,000 of 500 kB are read in seconds, all 127,000 of How2Sign's size in ten minutes.
_COMPARED, _COMPARED_WITHOUT_DIGEST = 3, 1000


class DatasetError(SignVitError, ValueError):
    """A data set that is not there, not whole or not of the schema; the message says what is there and what to do."""

    exit_code = 2


class Record(TypedDict):
    """One clip as stored (see `schema`): `video` is a list of JPEG bytes, `fps` in frames a second, `start` and `end` in seconds or -1."""

    id: str
    video: list[bytes]
    fps: float
    text: str
    gloss: str
    signer: str
    video_id: str
    start: float
    end: float


class Split(Sequence[Record]):
    """One split. Small to pickle: a reading process opens the shards for itself."""

    def __init__(self, folder: Path, name: str, shards: Sequence[Any]):
        self.folder, self.name = folder, name
        self._records = ArrayRecordDataSource(shards) if shards else []

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> Record:
        """Raises DatasetError for a record that cannot be read."""
        if not 0 <= i < len(self):
            raise IndexError(f"record {i} of split {self.name!r}, which has {len(self)}")
        try:
            return _parse(self._records[i])
        except Exception as error:  # array_record and protobuf raise several kinds
            raise DatasetError(
                f"record {i} of split {self.name!r} in {self.folder} cannot be read ({error}); build the data set again"
            ) from error

    def spread(self, count: int) -> "Split":
        """`count` of the clips, evenly over the split; all of them where it has no more."""
        if count >= len(self):
            return self
        positions = [i * len(self) // count for i in range(count)]
        some = Split(self.folder, self.name, ())
        some._records = _Some(self._records, positions)
        some.index = [self.index[i] for i in positions]
        return some

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "name": self.name, "_records": self._records}

    @functools.cached_property
    def index(self) -> list[IndexEntry]:
        """What is known of every clip without its frames, in the order of the records.

        Read from `<split>.index.jsonl` if that is there, is as its digest says, and agrees with some records; else from all records, once.
        An index of an earlier release, without a digest, is held against more of them.
        """
        try:
            entries = schema.read_index(self.folder, self.name)
            confirmed = schema.has_index_digest(self.folder, self.name)
            if self._agrees(entries, _COMPARED if confirmed else _COMPARED_WITHOUT_DIGEST):
                if not confirmed:
                    self._confirm()
                return entries
            logger.warning(
                "%s does not belong to these records, which are read instead",
                schema.index_path(self.folder, self.name),
            )
        except FileNotFoundError:
            pass
        except (schema.SchemaError, OSError, UnicodeDecodeError) as error:
            logger.warning("%s", error)
        return self._scan()

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the ids, texts, glosses, frame counts or their order; part of every checkpoint's data position."""
        digest = hashlib.sha256()
        for entry in self.index:
            digest.update(
                repr((entry.id, entry.text, entry.gloss, entry.num_frames)).encode(
                    "utf-8", "backslashreplace"
                )
            )
        return digest.hexdigest()[:16]

    @functools.cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that change with anything that the index says of a clip, and with the order."""
        digest = hashlib.sha256()
        for entry in self.index:
            digest.update(repr(_as_stored(entry)).encode("utf-8", "backslashreplace"))
        return digest.hexdigest()[:16]

    def _agrees(self, entries: list[IndexEntry], compared: int) -> bool:
        """Whether there is an entry for each record, and `compared` of them, evenly over the split, say what their records say."""
        if len(entries) != len(self):
            return False
        some = np.unique(
            np.linspace(0, len(self) - 1, min(compared, len(self))).astype(int)
        ).tolist()
        with ThreadPoolExecutor(4) as readers:
            return all(
                readers.map(lambda i: _as_stored(entries[i]) == _as_stored(_entry(self[i])), some)
            )

    def _confirm(self) -> None:
        message = "%s is of an earlier release, without a digest; %d of its %d entries were held against the records, and agree"
        logger.info(
            message,
            schema.index_path(self.folder, self.name),
            min(_COMPARED_WITHOUT_DIGEST, len(self)),
            len(self),
        )
        with contextlib.suppress(
            OSError
        ):  # a folder of somebody else: the same is done at each start
            schema.write_index_digest(self.folder, self.name)

    def _scan(self) -> list[IndexEntry]:
        logger.info(
            "reading all %d records of split %r in %s for its index",
            len(self),
            self.name,
            self.folder,
        )
        with ThreadPoolExecutor(4) as readers:
            entries = list(readers.map(lambda i: _entry(self[i]), range(len(self))))
        try:
            schema.write_index(self.folder, self.name, entries)
        except OSError as error:
            logger.warning(
                "the index of split %r is not kept, so it will be read again next time: %s",
                self.name,
                error,
            )
        return entries


class _Some(Sequence[Any]):
    def __init__(self, records: Sequence[Any], positions: Sequence[int]):
        self._records, self._positions = records, positions

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, i: int) -> Any:
        return self._records[self._positions[i]]


class SignDataset:
    """A version of a data set: its splits by name."""

    def __init__(
        self, folder: Path, shards: dict[str, Sequence[Any]], sizes: dict[str, tuple[int, int]]
    ):
        """`sizes`: number of each split's records, and their bytes."""
        self.folder = folder
        self._shards, self._sizes = shards, sizes
        self._opened: dict[str, Split] = {}

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._shards)

    def split(self, name: str) -> Split:
        """The same object at every call. Raises DatasetError if there is no such split or one of its shards is missing."""
        if name in self._opened:
            return self._opened[name]
        if name not in self._shards:
            raise DatasetError(
                f"no split {name!r} in {self.folder}; there are {_listed(self.splits)} (config.data.train_split, val_split, test_split)"
            )
        missing = [
            shard.filename for shard in self._shards[name] if not Path(shard.filename).is_file()
        ]
        if missing:
            raise DatasetError(
                f"split {name!r} in {self.folder} lacks {len(missing)} of its files, the first {missing[0]}; build the data set again"
            )
        try:
            return self._opened.setdefault(name, Split(self.folder, name, self._shards[name]))
        except Exception as error:  # array_record raises several kinds
            raise DatasetError(
                f"split {name!r} in {self.folder} cannot be opened ({error}); build the data set again"
            ) from error

    def identity(self) -> dict[str, Any]:
        """What tells this data set from another, as JSON values: every split's clips, and the builder's options where it left them.

        Texts, ids and the like by their digest; frames by the size of all records, which no other quality, size or rate has.
        """
        splits = {
            name: {"clips": clips, "bytes": size, "digest": self._digest(name)}
            for name, (clips, size) in self._sizes.items()
        }
        return {"splits": splits, "settings": self._settings()}

    def _digest(self, name: str) -> str | None:
        """None for a split whose files are not here; a run needs no test split."""
        try:
            return self.split(name).digest
        except DatasetError:
            return None

    def _settings(self) -> dict[str, Any] | None:
        try:
            settings = json.loads((self.folder / _REPORT_FILE).read_text(encoding="utf-8"))[
                "settings"
            ]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None  # built by TFDS alone, or the report was deleted
        return settings if isinstance(settings, dict) else None


def open_dataset(data_dir: str | Path, name: str) -> SignDataset:
    """Opens the newest version of data set `name` ("name", "name/config" or either with "/1.0.0") under `data_dir`. Raises DatasetError."""
    if is_address(data_dir):
        raise DatasetError(f"the data folder {str(data_dir)!r} is an address; allowed: {ALLOWED}")
    try:
        folder = _version_folder(Path(data_dir).expanduser(), name)
    except (OSError, RuntimeError) as error:  # not readable; "~" without a home
        raise DatasetError(f"{data_dir} (config.data.data_dir) cannot be read: {error}") from error
    import tensorflow_datasets as tfds  # takes a second; reading processes do without it

    try:
        info = tfds.builder_from_directory(str(folder)).info
        if info.file_format is None or info.file_format.value != "array_record":
            raise DatasetError(
                f"{folder} is stored as {info.file_format and info.file_format.value!r}; allowed: 'array_record'. {_how_to_build(name, data_dir)}"
            )
        lacking = sorted(set(schema.features()) - set(info.features or ()))
        shards = {
            split: list(part.file_instructions) if part.num_examples else []
            for split, part in info.splits.items()
        }
        sizes = {split: (part.num_examples, part.num_bytes) for split, part in info.splits.items()}
    except DatasetError:
        raise
    except Exception as error:  # whatever TFDS meets in damaged metadata
        raise DatasetError(
            f"{folder} cannot be read as a TFDS data set ({type(error).__name__}: {error}). {_how_to_build(name, data_dir)}"
        ) from error
    if lacking:
        raise DatasetError(
            f"{folder} has no {_listed(lacking)}; a sign data set has {_listed(schema.features())}. {_how_to_build(name, data_dir)}"
        )
    return SignDataset(folder, shards, sizes)


def _version_folder(data_dir: Path, name: str) -> Path:
    if not data_dir.is_dir():
        raise DatasetError(
            f"no folder {str(data_dir)!r} (config.data.data_dir). {_how_to_build(name, data_dir)}"
        )
    folder = data_dir / name
    if (folder / _INFO_FILE).is_file():
        return folder
    versions = _versions(folder)
    if versions:
        return versions[-1]
    configs = [f"{name}/{below.name}" for below in _folders(folder) if _versions(below)]
    if configs:
        raise DatasetError(
            f"data set {name!r} under {str(data_dir)!r} comes in several kinds: {_listed(configs)}; set config.data.name to one of them"
        )
    there = [
        below.name
        for below in _folders(data_dir)
        if _versions(below) or any(_versions(config) for config in _folders(below))
    ]
    cut_off = any(below.name.startswith("incomplete.") for below in _folders(folder))
    state = "is not whole: its build was cut off" if cut_off else "is not built"
    raise DatasetError(
        f"data set {name!r} {state}; under {str(data_dir)!r} there are {_listed(there)} (config.data.name). {_how_to_build(name, data_dir)}"
    )


def _folders(folder: Path) -> list[Path]:
    return sorted(below for below in folder.iterdir() if below.is_dir()) if folder.is_dir() else []


def _versions(folder: Path) -> list[Path]:
    """Version folders that hold a whole data set, the newest last."""
    whole = [
        below
        for below in _folders(folder)
        if _VERSION.fullmatch(below.name) and (below / _INFO_FILE).is_file()
    ]
    return sorted(whole, key=lambda below: tuple(map(int, below.name.split("."))))


def _how_to_build(name: str, data_dir: str | Path) -> str:
    return (
        f"Build it with: python -m tfds_builders.build {name.split('/')[0]} --data_dir={data_dir}"
    )


def _listed(names: Any) -> str:
    return ", ".join(sorted(names)) or "none"


def _parse(serialized: bytes) -> Record:
    """A third quicker than TFDS's own parser, which passes every frame through an array of objects."""
    from tensorflow_datasets.proto import tf_example_pb2

    feature = tf_example_pb2.Example.FromString(serialized).features.feature

    def text(key: str) -> str:
        return feature[key].bytes_list.value[0].decode("utf-8", "replace")

    def number(key: str) -> float:
        return feature[key].float_list.value[0]

    return Record(
        id=text("id"),
        video=list(feature["video"].bytes_list.value),
        fps=number("fps"),
        text=text("text"),
        gloss=text("gloss"),
        signer=text("signer"),
        video_id=text("video_id"),
        start=number("start"),
        end=number("end"),
    )


def _entry(record: Record) -> IndexEntry:
    known = {key: record[key] for key in ("id", "fps", "text", "gloss", "signer", "video_id")}
    return IndexEntry(num_frames=len(record["video"]), **known)


def _as_stored(entry: IndexEntry) -> tuple[Any, ...]:
    """Its values; the rate as a record has it, in float32."""
    return (
        entry.id,
        entry.num_frames,
        float(np.float32(entry.fps)),
        entry.text,
        entry.gloss,
        entry.signer,
        entry.video_id,
    )
