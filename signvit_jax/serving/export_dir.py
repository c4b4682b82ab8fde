"""The folder of an export: the names of its files, and the content of `export.json`."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self, TypeGuard

from signvit_jax.checkpoints.workdir import Workdir
from signvit_jax.errors.base import SignVitError
from signvit_jax.files.local_paths import ALLOWED, is_address
from signvit_jax.files.parsed_json import UNREADABLE_JSON

log = logging.getLogger(__name__)

FORMATS = ("int8", "stablehlo", "onnx", "safetensors")
QUANTIZATIONS = {  # what may be INT8 in each format; the first is the default
    "int8": ("weights", "weights_and_inputs"),
    "onnx": ("weights_and_inputs", "none"),
    "stablehlo": ("none",),
    "safetensors": ("none",),
}
_VERSION = 1


class ExportError(SignVitError):
    """An export that cannot be written or read; the message says what to do."""


def resolve_quantization(export_format: str, requested: str | None) -> str:
    """Return the requested quantization, or with None the format's default.

    Raises ExportError for one that the format does not support.
    """
    allowed = QUANTIZATIONS[export_format]
    if requested is not None and requested not in allowed:
        raise ExportError(
            f"--quantize={requested} is not possible with --format={export_format}; "
            f"allowed: {', '.join(allowed)}"
        )
    return requested or allowed[0]


@dataclasses.dataclass(frozen=True)
class ExportManifest:
    """The content of `export.json`."""

    format: str  # one of FORMATS
    quantize: str  # what is INT8, one of the format's QUANTIZATIONS
    step: int  # of the exported checkpoint
    # The checkpoint's metrics on the validation split; `TrainedModel.min_evidence` reads them.
    # Exports of earlier releases have none.
    validation: Mapping[str, float] = dataclasses.field(default_factory=dict)
    # SHA-256 of each file that the model is read from, by name; exports of earlier releases have
    # none. The calibration is not among them, because eval --calibrate replaces it.
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ExportFolder(Workdir):
    """The files of an export.

    Like a workdir it has `config.json` and the tokenizers; it has parameters and programs in place
    of checkpoints.
    """

    export_json = property(lambda self: self.path / "export.json")
    weights = property(lambda self: self.path / "weights.safetensors")
    report_json = property(lambda self: self.path / "report.json")
    model_card = property(lambda self: self.path / "README.md")

    def program(self, name: str, kind: str) -> Path:
        return self.path / f"{name}.{kind}"

    @classmethod
    @contextlib.contextmanager
    def new(cls, path: str | os.PathLike) -> Iterator[Self]:
        """Open a temporary folder for a new export, renamed to `path` when the context ends well.

        Raises ExportError if `path` exists, cannot be written, or is being written by another
        export.
        """
        if is_address(path):
            raise ExportError(f"--output={path} is an address; allowed: {ALLOWED}")
        target = Path(path).absolute()
        unfinished = target.with_name(f"{target.name}.unfinished")
        try:
            with _locked(unfinished, path):
                try:
                    if target.exists() and (not target.is_dir() or any(target.iterdir())):
                        raise ExportError(
                            f"--output={path} exists already; give a new folder: "
                            "an export never overwrites anything"
                        )
                    _empty(unfinished)  # of the files of an export that was killed
                    yield cls(unfinished)
                    unfinished.rename(target)
                finally:
                    shutil.rmtree(unfinished, ignore_errors=True)
        except OSError as error:
            raise ExportError(
                f"--output={path} cannot be written: {error}; "
                "give a folder that you may write to, on a disk with enough space"
            ) from error

    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def write_manifest(self, manifest: ExportManifest) -> None:
        """Write `export.json` with the digests of the files that are there."""
        names = sorted(entry.name for entry in self.path.iterdir() if entry.is_file())
        digests = {
            name: _digest(self.path / name)
            for name in names
            if name not in (self.calibration_json.name, self.export_json.name)
        }
        manifest = dataclasses.replace(manifest, files=digests)
        self.write_text(
            self.export_json,
            json.dumps({"version": _VERSION} | dataclasses.asdict(manifest), indent=2) + "\n",
        )

    def check_files(self) -> None:
        """Raise ExportError if a file differs from the digest in `export.json`, or is missing.

        For an export of an earlier release, which has no digests, this is logged.
        """
        files = self.manifest().files
        if not files:
            log.warning(
                "%s is of an earlier release and has no digests: its files cannot be checked",
                self.path,
            )
        wrong = [
            name if (self.path / name).is_file() else f"{name} (missing)"
            for name, digest in files.items()
            if not (self.path / name).is_file() or _digest(self.path / name) != digest
        ]
        if wrong:
            raise ExportError(
                f"{self.path}: {', '.join(wrong)} differ from the digests in export.json; the "
                "export was damaged or changed: download it again, or export the model again"
            )

    def manifest(self) -> ExportManifest:
        """Read `export.json`. Raises ExportError for a file that this program did not write."""
        try:
            content = json.loads(self.export_json.read_text(encoding="utf-8"))
            validation = {str(k): float(v) for k, v in content.get("validation", {}).items()}
            found = ExportManifest(
                content["format"],
                content["quantize"],
                content["step"],
                validation,
                _checked_digests(content.get("files", {})),
            )
            is_known = (
                content["version"] == _VERSION
                and type(found.step) is int
                and found.step >= 0
                and found.quantize in QUANTIZATIONS[found.format]
            )
        except UNREADABLE_JSON as error:
            raise ExportError(
                f"{self.export_json} cannot be read ({type(error).__name__}: {error}); "
                "export the model again"
            ) from error
        if not is_known:
            raise ExportError(
                f"{self.export_json} belongs to a different version of this program, or was "
                "changed; export the model again"
            )
        return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked_digests(files: Mapping[str, str]) -> dict[str, str]:
    """Raise ValueError for names that are not those of files in the folder itself."""
    found = {str(name): str(digest) for name, digest in files.items()}
    if unsafe := [name for name in found if Path(name).name != name]:
        raise ValueError(f"files has the name {unsafe[0]!r}")
    return found


@contextlib.contextmanager
def _locked(folder: Path, requested: object) -> Iterator[None]:
    """Create the folder and lock it against other exports.

    The kernel releases the lock when its process ends, in whatever way.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ExportError(
                    f"--output={requested} is being written by another export; "
                    "wait for it, or give another folder"
                ) from error
            except OSError as error:
                log.warning(
                    "%s cannot be locked (%s): make sure that no other export is written to it",
                    folder,
                    error.strerror,
                )
            if _is_at(descriptor, folder):
                yield
                return
        # The export that held the lock has renamed or removed the folder in the meantime.


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def is_export(path: object) -> TypeGuard[str | os.PathLike]:
    """Return True if this is the path of an export, and not of a workdir or a list of several."""
    return isinstance(path, str | os.PathLike) and ExportFolder(Path(path)).export_json.is_file()
