"""Reading of a built TFDS data set, record by record and without TensorFlow.

TFDS lists the shards of each split. ArrayRecord reads single records by their numbers. JPEG frames
stay encoded: the caller decodes only the frames that it samples.
"""

import contextlib
import functools
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource

from signvit_jax.data import schema
from signvit_jax.data.keypoints import KeypointLayout
from signvit_jax.data.records import Record, index_entry, parse_record, stored_values
from signvit_jax.data.schema import IndexEntry
from signvit_jax.errors.base import SignVitError
from signvit_jax.files.local_paths import ALLOWED, is_address
from signvit_jax.files.parsed_json import UNREADABLE_JSON

log = logging.getLogger(__name__)

Shards = Sequence[Any]  # TFDS's file instructions; their types do not fit ArrayRecord's

_VERSION = re.compile(r"\d+\.\d+\.\d+")
_INFO_FILE = "dataset_info.json"
_REPORT_FILE = "build_report.json"
# The number of records with which an index file is compared before it is used, if it has a digest
# and if it has none. To read 1,000 records of 500 kB takes seconds; all 127,000 records of a large
# data set would take ten minutes.
_NUM_COMPARED = 3
_NUM_COMPARED_WITHOUT_DIGEST = 1000
_THREADS = 4  # that read records at the same time


class DatasetError(SignVitError, ValueError):
    """A data set that is missing, is incomplete or has another schema.

    The message says what is there and what to do.
    """


class SplitIdentity(TypedDict):
    """What distinguishes a split from the same split of another build."""

    clips: int
    bytes: int  # of all records
    digest: str | None  # of the index; None if files of the split are missing


class Identity(TypedDict):
    """What distinguishes a data set from others."""

    splits: dict[str, SplitIdentity]
    settings: dict[str, object] | None  # the builder's options; None without a build report


class _Records(Protocol):
    """Serialized records by number; the part of `ArrayRecordDataSource` that a split uses."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> bytes: ...


class Split:
    """The records of one split.

    A pickled split has no records in it: each process that unpickles it opens the shards again.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        shards: Shards,
        keypoint_layout: KeypointLayout | None = None,
    ):
        """`shards` is empty for an empty split; `keypoint_layout` is None without keypoints."""
        self.folder = folder
        self.name = name
        self.keypoint_layout = keypoint_layout
        self._records: _Records = ArrayRecordDataSource(shards) if shards else []

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> Record:
        """Read record `i`. Raises IndexError, and DatasetError for a record that cannot be read."""
        if not 0 <= i < len(self):
            raise IndexError(f"record {i} of split {self.name!r}, which has {len(self)}")
        try:
            return parse_record(self._records[i])
        except Exception as error:  # array_record and protobuf raise several types
            raise DatasetError(
                f"record {i} of split {self.name!r} in {self.folder} cannot be read ({error}); "
                "build the data set again"
            ) from error

    def spread(self, count: int) -> "Split":
        """Return a split of `count` clips spaced evenly over this one; all if it has fewer."""
        if count >= len(self):
            return self
        positions = [i * len(self) // count for i in range(count)]
        subset = Split(self.folder, self.name, shards=(), keypoint_layout=self.keypoint_layout)
        subset._records = _Subset(self._records, positions)
        subset.index = [self.index[i] for i in positions]
        return subset

    def __getstate__(self) -> dict[str, object]:
        fields = ["folder", "name", "keypoint_layout", "_records"]
        if isinstance(self._records, _Subset):
            fields.append("index")  # the index file is that of the complete split
        return {key: self.__dict__[key] for key in fields}

    @functools.cached_property
    def index(self) -> list[IndexEntry]:
        """The description of each clip without its frames, in the order of the records.

        Read from `<split>.index.jsonl` if that file exists, has the recorded digest and agrees with
        a few records. Otherwise read from all records, and the file is written again. An index of
        an earlier release has no digest; it is compared with more records.
        """
        try:
            entries = schema.read_index(self.folder, self.name)
            has_digest = schema.has_index_digest(self.folder, self.name)
            if self._agrees(entries, _NUM_COMPARED if has_digest else _NUM_COMPARED_WITHOUT_DIGEST):
                if not has_digest:
                    self._write_digest()
                return entries
            log.warning(
                "%s does not belong to these records; reading the records instead",
                schema.index_path(self.folder, self.name),
            )
        except FileNotFoundError:
            pass
        except (schema.SchemaError, OSError, UnicodeDecodeError) as error:
            log.warning("%s", error)
        return self._scan()

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the ids, texts, glosses and frame counts in order, as 16 hexadecimal digits.

        Every checkpoint has it in its data position: a resumed run must read the same clips.
        """
        return _digest(
            (entry.id, entry.text, entry.gloss, entry.num_frames) for entry in self.index
        )

    @functools.cached_property
    def digest(self) -> str:
        """Hash of all index entries in their order, as 16 hexadecimal digits."""
        return _digest(stored_values(entry) for entry in self.index)

    def _agrees(self, entries: list[IndexEntry], num_compared: int) -> bool:
        """Return True if there is one entry per record, and `num_compared` of them are right."""
        if len(entries) != len(self):
            return False
        positions = np.linspace(0, len(self) - 1, min(num_compared, len(self))).astype(int)

        def matches(i: int) -> bool:
            return stored_values(entries[i]) == stored_values(index_entry(self[i]))

        with ThreadPoolExecutor(_THREADS) as readers:
            return all(readers.map(matches, np.unique(positions).tolist()))

    def _write_digest(self) -> None:
        log.info(
            "%s has no digest (earlier release); %d of its %d entries were compared with the "
            "records, and agree",
            schema.index_path(self.folder, self.name),
            min(_NUM_COMPARED_WITHOUT_DIGEST, len(self)),
            len(self),
        )
        # If the folder is read-only, the next start compares the records again.
        with contextlib.suppress(OSError):
            schema.write_index_digest(self.folder, self.name)

    def _scan(self) -> list[IndexEntry]:
        """Return the index read from all records, after saving it if the folder can be written."""
        log.info(
            "reading all %d records of split %r in %s for its index",
            len(self),
            self.name,
            self.folder,
        )
        with ThreadPoolExecutor(_THREADS) as readers:
            entries = list(readers.map(lambda i: index_entry(self[i]), range(len(self))))
        try:
            schema.write_index(self.folder, self.name, entries)
        except OSError as error:
            log.warning(
                "the index of split %r cannot be saved and will be read from the records again "
                "next time: %s",
                self.name,
                error,
            )
        return entries


class _Subset:
    """The records at the given positions of other records."""

    def __init__(self, records: _Records, positions: Sequence[int]):
        self._records = records
        self._positions = positions

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, i: int) -> bytes:
        return self._records[self._positions[i]]


class SignDataset:
    """One version of a data set: its splits by name."""

    def __init__(
        self,
        folder: Path,
        shards: Mapping[str, Shards],
        sizes: Mapping[str, tuple[int, int]],
        keypoint_layout: KeypointLayout | None = None,
    ):
        """Create a data set of splits that are opened later.

        `shards`: split -> its files. `sizes`: split -> (number of records, bytes of all records).
        `keypoint_layout`: the points of each frame; None if the data set has no keypoints.
        """
        self.folder = folder
        self.keypoint_layout = keypoint_layout
        self._shards = shards
        self._sizes = sizes
        self._opened: dict[str, Split] = {}

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._shards)

    def split(self, name: str) -> Split:
        """Return a split, the same object at every call.

        Raises DatasetError if there is no such split or one of its shards is missing.
        """
        if name in self._opened:
            return self._opened[name]
        if name not in self._shards:
            raise DatasetError(
                f"no split {name!r} in {self.folder}; there are {_listed(self.splits)} "
                "(config.data.train_split, val_split, test_split)"
            )
        files = [shard.filename for shard in self._shards[name]]
        missing = [file for file in files if not Path(file).is_file()]
        if missing:
            raise DatasetError(
                f"split {name!r} in {self.folder} lacks {len(missing)} of its files, "
                f"the first {missing[0]}; build the data set again"
            )
        try:
            split = Split(self.folder, name, self._shards[name], self.keypoint_layout)
            return self._opened.setdefault(name, split)
        except Exception as error:  # array_record raises several types
            raise DatasetError(
                f"split {name!r} in {self.folder} cannot be opened ({error}); "
                "build the data set again"
            ) from error

    def identity(self) -> Identity:
        """Return what distinguishes this data set from others, as JSON values.

        Of every split: the number of clips, of bytes, and the index digest. If the build report
        exists: the builder's options. Frames are not compared; another JPEG quality, image size or
        frame rate shows in the number of bytes.
        """
        splits: dict[str, SplitIdentity] = {
            name: {"clips": clips, "bytes": size, "digest": self._split_digest(name)}
            for name, (clips, size) in self._sizes.items()
        }
        return {"splits": splits, "settings": self._settings()}

    def _split_digest(self, name: str) -> str | None:
        """Return the digest of a split, or None without its files: a run needs no test split."""
        try:
            return self.split(name).digest
        except DatasetError:
            return None

    def _settings(self) -> dict[str, object] | None:
        """Return the builder's options, or None without a report.

        The report is missing if somebody deleted it, or if TFDS's own command built the data set.
        """
        try:
            report = json.loads((self.folder / _REPORT_FILE).read_text(encoding="utf-8"))
            settings = report["settings"]
        except UNREADABLE_JSON:
            return None
        return settings if isinstance(settings, dict) else None


def open_dataset(data_dir: str | Path, name: str) -> SignDataset:
    """Open the newest version of a data set under `data_dir`.

    `name`: "isign" or "isign/CONFIG" of the builder; with "/1.0.0" at the end for that version.
    Raises DatasetError.
    """
    if is_address(data_dir):
        raise DatasetError(f"the data folder {str(data_dir)!r} is an address; allowed: {ALLOWED}")
    try:
        folder = _version_folder(Path(data_dir).expanduser(), name)
    except (OSError, RuntimeError) as error:  # RuntimeError: "~" without a home
        raise DatasetError(f"{data_dir} (config.data.data_dir) cannot be read: {error}") from error
    import tensorflow_datasets as tfds  # takes a second, and worker processes do not need it

    advice = _build_command(name, data_dir)
    try:
        info = tfds.builder_from_directory(str(folder)).info
        if info.file_format is None or info.file_format.value != "array_record":
            raise DatasetError(
                f"{folder} is stored as {info.file_format and info.file_format.value!r}; "
                f"allowed: 'array_record'. {advice}"
            )
        features = info.features
        names = features.keys() if isinstance(features, tfds.features.FeaturesDict) else ()
        missing = sorted(set(schema.features()) - set(names))
        shards = {
            split: list(part.file_instructions) if part.num_examples else []
            for split, part in info.splits.items()
        }
        sizes = {split: (part.num_examples, part.num_bytes) for split, part in info.splits.items()}
        layout = None
        if "keypoints" in names:
            metadata = info.metadata
            points = metadata.get("keypoints") if isinstance(metadata, dict) else None
            layout = KeypointLayout.from_json(points) if isinstance(points, dict) else None
            if layout is None:
                raise DatasetError(
                    f"{folder}/metadata.json does not say which keypoints its records have; "
                    f"restore that file, or build the data set again. {advice}"
                )
    except DatasetError:
        raise
    except Exception as error:  # whatever TFDS raises for damaged metadata
        raise DatasetError(
            f"{folder} cannot be read as a TFDS data set ({type(error).__name__}: {error}). "
            f"{advice}"
        ) from error
    if missing:
        raise DatasetError(
            f"{folder} has no {_listed(missing)}; a sign data set has "
            f"{_listed(schema.features())}. {advice}"
        )
    return SignDataset(folder, shards, sizes, layout)


def _version_folder(data_dir: Path, name: str) -> Path:
    """Return the folder of the version in `name`, or else of the newest. Raises DatasetError."""
    advice = _build_command(name, data_dir)
    if not data_dir.is_dir():
        raise DatasetError(f"no folder {str(data_dir)!r} (config.data.data_dir). {advice}")
    folder = data_dir / name
    if (folder / _INFO_FILE).is_file():
        return folder
    versions = _versions(folder)
    if versions:
        return versions[-1]
    configs = [f"{name}/{config.name}" for config in _folders(folder) if _versions(config)]
    if configs:
        raise DatasetError(
            f"data set {name!r} under {str(data_dir)!r} has several configs: {_listed(configs)}; "
            "set config.data.name to one of them"
        )
    built = [
        dataset.name
        for dataset in _folders(data_dir)
        if _versions(dataset) or any(_versions(config) for config in _folders(dataset))
    ]
    interrupted = any(child.name.startswith("incomplete.") for child in _folders(folder))
    state = "is incomplete: its build was interrupted" if interrupted else "is not built"
    raise DatasetError(
        f"data set {name!r} {state}; under {str(data_dir)!r} there are {_listed(built)} "
        f"(config.data.name). {advice}"
    )


def _folders(folder: Path) -> list[Path]:
    """Return the folders in `folder`, sorted; none if it does not exist."""
    return sorted(child for child in folder.iterdir() if child.is_dir()) if folder.is_dir() else []


def _versions(folder: Path) -> list[Path]:
    """Return the version folders that hold a complete data set, the newest last."""
    complete = [
        version
        for version in _folders(folder)
        if _VERSION.fullmatch(version.name) and (version / _INFO_FILE).is_file()
    ]
    return sorted(complete, key=lambda version: tuple(map(int, version.name.split("."))))


def _build_command(name: str, data_dir: str | Path) -> str:
    dataset = name.split("/", maxsplit=1)[0]
    return f"Build it with: signvit build {dataset} --data_dir={data_dir}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _digest(values: Iterable[tuple[object, ...]]) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(repr(value).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()[:16]
