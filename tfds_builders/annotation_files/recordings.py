"""Clips of long recordings: annotation files (.eaf, .vtt, .srt), each with its video.

A clip is called `<video>-<start>-<end>`. The times are those of the annotation file in
milliseconds, with eight digits. The name does not change when other annotations of the recording
are added or removed.
"""

import collections
import contextlib
import dataclasses
import os
import re
import unicodedata
import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from signvit_jax.media.video import APPLE_DOUBLE, EXTENSIONS
from tfds_builders.annotation_files.elan import read_elan
from tfds_builders.annotation_files.rows import (
    encoding_notes,
    placeholder_notes,
    require_order,
    without_rest,
)
from tfds_builders.annotation_files.subtitle_files import read_subtitles
from tfds_builders.annotation_files.tables import AnnotationError, text_fault
from tfds_builders.clips import Clip, ClipTable, Problem, Segment
from tfds_builders.media import UNSUPPORTED, MediaFolder

ELAN, SUBTITLES = (".eaf",), (".vtt", ".srt")
_LANGUAGE = re.compile("[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*")


@dataclasses.dataclass
class _Counts:
    """Counts for the NOTES on a data set, with an example of each kind."""

    counts: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    examples: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, kind: str, count: int, example: str) -> None:
        if count:
            self.counts[kind] += count
            self.examples.setdefault(kind, example)

    def sentences(self) -> list[str]:
        return [
            sentence.format(count=self.counts[kind], example=self.examples[kind])
            for kind, sentence in NOTES.items()
            if self.counts[kind]
        ]


NOTES = {
    "empty": "{count} annotations without text are left out, as in {example}",
    "loose": "{count} glosses overlap no text in time and are left out, as in {example}",
    "cameras": "{count} ELAN files name several videos that are there; the first is taken, as in "
    "{example}",
    "overlaps": "{count} cues begin before the previous one has ended, as in {example}: both are "
    "clips, with frames in common",
    "joined": "{count} cues have the times of the previous one, as in {example}: they are one clip",
    "repeats": "{count} lines repeat the last line of the previous cue, as rolling captions do, "
    "as in {example}: they are left out",
    "sounds": "{count} cues are in brackets or notes of music, such as {example}: they are kept, "
    "though nobody may sign there",
    "languages": "{count} subtitle files in other languages or formats are left out, "
    "such as {example}",
    "several": "{count} annotation files are for a video that another one is for too, such as "
    "{example}: the clips of both are taken",
}


class Videos:
    """The videos of annotation files: a folder, or one file. Raises AnnotationError."""

    def __init__(self, path: str | os.PathLike):
        self._only = Path(path) if os.path.isfile(path) else None
        self.media = MediaFolder(self._only.parent if self._only else path)
        self._by_name: MediaFolder | None = None

    @property
    def is_one_file(self) -> bool:
        return self._only is not None

    def find(self, names: Sequence[str]) -> str:
        """Return the path of the first of `names` that is a video.

        A name is a path in the folder, without extension. If none is a video, the last part of each
        name is searched for in all folders below. Raises LookupError with the reason.
        """
        if self._only is not None:
            return os.fspath(self._only)
        for name in names:
            try:
                return self.media.find(name)
            except LookupError:
                continue
        if self._by_name is None:
            self._by_name = MediaFolder(self.media.root, by_name=True)
        reasons = []
        for name in dict.fromkeys(map(os.path.basename, names)):
            try:
                return self._by_name.find(name)
            except LookupError as error:
                reasons.append(str(error.args[0]))
        raise LookupError(reasons[0])

    def id_of(self, path: str) -> str:
        """The name of a video in the data set: its path in the folder without extension."""
        relative = os.path.relpath(path, self.media.root)
        return unicodedata.normalize("NFC", os.path.splitext(relative)[0])


@dataclasses.dataclass(frozen=True)
class _Recording:
    """An annotation file that was read, and its video."""

    file: str
    video_id: str
    path: str | None
    segments: list[Segment]
    problems: list[tuple[int, str]]
    reason: str = ""  # why there is no path
    offset: float = 0.0  # seconds in the video where the times begin


def elan_clips(
    annotations: str | os.PathLike,
    videos: Videos,
    text_tier: str | None = None,
    gloss_tier: str | None = None,
) -> ClipTable:
    """Return the clips of an ELAN file, or of all in a folder.

    The tiers are as in `read_elan`. The video of a file is the first existing one that it names,
    else the one with the same name as the file. Raises AnnotationError if no file can be used.
    """
    counts = _Counts()
    files = _files(annotations, ELAN)

    def read(file: _File) -> _Recording:
        elan = read_elan(file.path, text_tier, gloss_tier)
        counts.add("empty", elan.num_empty, file.path)
        counts.add("loose", elan.num_loose, file.path)
        names = {name: link for link in elan.links for name in _names_of_url(link.url, file.folder)}
        offsets: dict[str, float] = {}  # existing video -> its offset in seconds
        for name, link in names.items():
            with contextlib.suppress(LookupError):
                offsets.setdefault(videos.find([name]), link.offset)
        listed = ", ".join(map(os.path.basename, offsets))
        counts.add("cameras", int(len(offsets) > 1), f"{file.path} ({listed})")
        path, offset, reason = None, 0.0, ""
        try:
            path = next(iter(offsets)) if offsets else videos.find([*names, file.name])
            offset = offsets.get(path, 0.0)
        except LookupError as error:
            linked = dict.fromkeys(os.path.basename(link.url)[:200] for link in names.values())
            listed = ", ".join(linked) or "no video"
            reason = f"{error.args[0]}; {os.path.basename(file.path)} names {listed}"
        name = file.name if path is None else videos.id_of(path)
        return _Recording(file.path, name, path, elan.segments, elan.problems, reason, offset)

    return _clips(files, read, videos, counts)


def subtitle_clips(
    annotations: str | os.PathLike,
    videos: Videos,
    language: str | None = None,
    encoding: str | None = None,
) -> ClipTable:
    """Return the clips of a subtitle file, or of all in a folder; each cue is a clip.

    The video of `a.en.vtt` is `a.en` or `a`. `language` chooses between `a.en.vtt` and `a.de.vtt`;
    `encoding` is as in `read_subtitles`. Raises AnnotationError if no file can be used.
    """
    counts = _Counts()
    files = _files(annotations, SUBTITLES)
    paired: dict[str, list[tuple[_File, str]]] = {}  # video -> files with their languages
    reasons: dict[str, str] = {}  # name without a video -> reason
    for file in files:
        path, name, suffix = _video_of_subtitles(file, videos, reasons)
        paired.setdefault(path or name, []).append((dataclasses.replace(file, name=name), suffix))

    def read(file: _File) -> _Recording:
        subtitles = read_subtitles(file.path, encoding)
        counts.add("empty", subtitles.num_empty, file.path)
        counts.add("overlaps", subtitles.num_overlaps, file.path)
        counts.add("joined", subtitles.num_joined, file.path)
        counts.add("repeats", subtitles.num_repeats, file.path)
        if subtitles.sounds:
            counts.add("sounds", len(subtitles.sounds), f"{subtitles.sounds[0]!r} in {file.path}")
        reason = reasons.get(file.name, "")
        path = None if reason else videos.find([file.name])
        return _Recording(
            file.path,
            file.name if path is None else videos.id_of(path),
            path,
            subtitles.segments,
            subtitles.problems,
            reason,
        )

    chosen: list[_File] = []
    problems: list[Problem] = []
    for files_of_video in paired.values():
        try:
            file = _in_language(files_of_video, language)
        except LookupError as error:
            first, _ = files_of_video[0]
            problems.append(Problem(first.name, str(error.args[0]), file=first.path))
            continue
        chosen.append(file)
        others = [other for other, _ in files_of_video if other.path != file.path]
        if others:
            counts.add("languages", len(others), others[0].path)
    return _clips(chosen, read, videos, counts, problems)


@dataclasses.dataclass(frozen=True)
class _File:
    """An annotation file."""

    path: str
    folder: str  # its folder, relative to the folder of all annotation files, or ""
    name: str  # of its video, without extension and relative to the folder of videos


def _files(annotations: str | os.PathLike, extensions: tuple[str, ...]) -> list[_File]:
    """The annotation file, or those below a folder, sorted. Raises AnnotationError."""
    root = Path(annotations)
    if root.is_dir():
        paths = [
            Path(folder, name)
            for folder, _, names in os.walk(root)
            for name in names
            if name.lower().endswith(extensions)
            and not name.startswith(APPLE_DOUBLE)
            and os.path.isfile(os.path.join(folder, name))
        ]
        if not paths:
            kinds = " or ".join(extensions)
            raise AnnotationError(f"{root}: no {kinds} file in this folder or those below it")
    elif root.exists():
        paths, root = [root], root.parent
    else:
        raise AnnotationError(f"{root}: there is no such file or folder")
    files = []
    for path in sorted(paths):
        folder = os.path.relpath(path.parent, root)
        folder = "" if folder == "." else folder
        files.append(_File(os.fspath(path), folder, os.path.join(folder, path.stem)))
    return files


def _names_of_url(url: str, folder: str) -> Iterable[str]:
    """Names for `Videos.find` of a video to which a file in `folder` links."""
    path = urllib.parse.unquote(url).replace("\\", "/")
    stem, extension = os.path.splitext(path)
    if extension.lower() not in (*EXTENSIONS, *UNSUPPORTED) or "\0" in path:
        return
    relative = os.path.normpath(os.path.join(folder, stem))
    if not os.path.isabs(stem) and ":" not in stem and not relative.startswith(".."):
        yield relative
    yield os.path.join(folder, os.path.basename(stem))


def _video_of_subtitles(
    file: _File, videos: Videos, reasons: dict[str, str]
) -> tuple[str | None, str, str]:
    """Return path and name of the video, and the rest of the file's name, which is a language.

    Without a video the path is None, and `reasons` gets the reason under the name.
    """
    folder, base = os.path.split(file.name)
    parts = base.split(".")
    first = ""
    for count in range(len(parts), 0, -1):
        name = os.path.join(folder, ".".join(parts[:count]))
        try:
            return videos.find([name]), name, ".".join(parts[count:])
        except LookupError as error:
            first = first or str(error.args[0])
    suffix = parts[-1] if len(parts) > 1 and _LANGUAGE.fullmatch(parts[-1]) else ""
    name = file.name.removesuffix(f".{suffix}") if suffix else file.name
    reasons[name] = first
    return None, name, suffix


def _in_language(files: Sequence[tuple[_File, str]], language: str | None) -> _File:
    """Choose one of the subtitle files of a video. Raises LookupError with the reason."""
    listed = ", ".join(os.path.basename(file.path) for file, _ in files)
    if language:
        language_tag = language.casefold()

        def matches(suffix: str) -> bool:
            tags = suffix.casefold().replace("_", "-").split(".")
            return any(tag == language_tag or tag.startswith(f"{language_tag}-") for tag in tags)

        matching = [(file, suffix) for file, suffix in files if matches(suffix)]
        if not matching:
            raise LookupError(f"no subtitles in the language {language!r}; there is {listed}")
        files = matching
    if len({suffix for _, suffix in files}) > 1:
        raise LookupError(
            f"{len(files)} subtitle files for one video: {listed}; --language=NAME says which, "
            "such as --language=en for a.en.vtt"
        )
    return min(files, key=lambda pair: not pair[0].path.lower().endswith(SUBTITLES[0]))[0]


def _clips(
    files: Sequence[_File],
    read: Callable[[_File], _Recording],
    videos: Videos,
    counts: _Counts,
    problems: Sequence[Problem] = (),
) -> ClipTable:
    """Return the clips of all files.

    Raises AnnotationError if no file can be used, and if several are for a single video file.
    """
    if videos.is_one_file and len(files) > 1:
        raise AnnotationError(
            f"--videos is one file, and there are {len(files)} annotation files, such as "
            f"{files[0].path} and {files[1].path}; give the folder of their videos"
        )
    clips: list[Clip] = []
    all_problems: list[Problem] = [*problems]
    errors: list[AnnotationError] = []
    uses: collections.Counter[str] = collections.Counter()
    file_of_video: dict[str, str] = {}  # video -> the first annotation file that it has
    for file in files:
        try:
            recording = read(file)
        except AnnotationError as error:
            errors.append(error)
            reason = str(error).removeprefix(f"{file.path}: ")
            all_problems.append(Problem(file.name, reason, file=file.path))
            continue
        if recording.path is not None:
            counts.add("several", int(recording.path in file_of_video), recording.file)
            file_of_video.setdefault(recording.path, recording.file)
        problems_of_file = [
            Problem(recording.video_id, reason, file=recording.file, line=line)
            for line, reason in recording.problems
        ]
        for segment in recording.segments:
            name = _clip_id(recording.video_id, segment, uses)
            try:
                clips.append(_clip(name, recording, segment))
            except LookupError as error:
                reason = str(error.args[0])
                problems_of_file.append(
                    Problem(name, reason, file=recording.file, line=segment.line)
                )
        all_problems += sorted(problems_of_file, key=lambda problem: problem.line)
    if not clips and errors:
        raise errors[0]
    if not clips and not all_problems:
        raise AnnotationError(f"{files[0].path}: no annotation with a text in it")
    notes = [*videos.media.notes, *counts.sentences()]
    if not videos.is_one_file:
        notes += videos.media.others(clip.path for clip in clips if clip.path)
    notes += [*placeholder_notes(clips), *encoding_notes(all_problems)]
    return ClipTable(clips, all_problems, notes)


def _clip_id(video_id: str, segment: Segment, uses: collections.Counter[str]) -> str:
    name = f"{video_id}-{round(segment.start):08d}-{round(segment.end):08d}"
    uses[name] += 1  # another signer, or another annotation file, has the same times
    return name if uses[name] == 1 else f"{name}-{uses[name]}"


def _clip(name: str, recording: _Recording, segment: Segment) -> Clip:
    """Return the clip of a segment. Raises LookupError with the reason."""
    if recording.path is None:
        raise LookupError(recording.reason)
    values = {"text": segment.text, "gloss": segment.gloss, "signer": segment.signer}
    if fault := text_fault(values):
        raise LookupError(fault)
    start = segment.start / 1000 + recording.offset
    end = segment.end / 1000 + recording.offset
    require_order(start, end)
    return Clip(
        id=name,
        text=without_rest(segment.text),
        path=recording.path,
        gloss=without_rest(segment.gloss),
        signer=segment.signer,
        video_id=recording.video_id,
        start=start,
        end=end,
        file=recording.file,
        line=segment.line,
    )
