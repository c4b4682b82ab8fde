"""Preview a build, with the clips that it would leave out: signvit check DATA [options]

DATA is a folder of videos with their table, ELAN or subtitle files, or the NAME of a data set as in
`signvit build NAME`. The options are those of the build (`signvit check NAME --help`); a folder
needs none if there is one table in it, or .eaf files, or subtitles. The output has the clips, hours
and words of each split, the clips that cannot be built, with reasons, and the command that builds.

Of a video only the header is read. --decode reads every frame, as the build does.

Exit codes are those of the build: 0 all clips can be built; 2 wrong usage; 3 some clips cannot be
built; 4 none can.

examples:
  signvit check my_videos
  signvit check my_videos --csv=clips.csv --text_column=Satz
  signvit check video_folder --eaf=corpus --videos=corpus --text_tier=Translation --decode
"""

import argparse
import collections
import dataclasses
import itertools
import os
import re
import shlex
import sys
import tempfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from signvit_jax.errors.nearest import did_you_mean
from signvit_jax.files.local_paths import local_path
from signvit_jax.runtime import completion
from signvit_jax.runtime.command_line import program_name
from signvit_jax.runtime.exit_codes import (
    DONE,
    NO_READABLE_MEDIA,
    SOME_INPUTS_FAILED,
    USAGE,
    UsageError,
    run_command,
)
from signvit_jax.runtime.standard_streams import clean
from tfds_builders.build import (
    builder_names,
    find_builder,
    make_builder,
    option_parser,
    parse_options,
    progress_bar,
)

if TYPE_CHECKING:
    from tfds_builders.base import SignDatasetBuilder
    from tfds_builders.clips import Clip, Encoding, Problem

FOLDER_BUILDER = "video_folder"  # builds a folder that is not a known data set
TABLE_EXTENSIONS = (".csv", ".tsv")
MAX_SHOWN = 5  # clips of each kind of problem


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments and completion.is_asked():
        parser = argparse.ArgumentParser()
        completion.offer(parser.add_argument("data"), builder_names)
        completion.complete(parser, first=2)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return DONE if arguments else USAGE
    return run(arguments[0], arguments[1:])


def run(data: str, arguments: list[str]) -> int:
    """Print what a build would make of `data`; return the exit code. Raises SignVitError."""
    is_named = data in builder_names()
    builder_class = find_builder(data if is_named else FOLDER_BUILDER)
    parser = option_parser(builder_class, f"{program_name()} {data}", complete=False)
    parser.add_argument("--decode", action="store_true", help="read every frame of every clip")
    flags = parse_options(builder_class, arguments, parser)
    if not is_named:
        arguments = [*_fill_from_folder(data, flags), *arguments]
    with tempfile.TemporaryDirectory() as folder:
        builder = make_builder(builder_class, flags, Path(folder))
        splits = builder.plan()
        if flags.decode:
            checked = _check_frames(splits, builder.encoding, flags.workers)
        else:
            checked = _check_headers(splits)
    problems = [*builder.problems, *checked.problems]
    print(clean(_summary(builder, splits, checked, problems, arguments, flags.decode), keep="\n"))
    if not checked.buildable:
        return NO_READABLE_MEDIA
    return SOME_INPUTS_FAILED if problems else DONE


def _fill_from_folder(data: str, flags: argparse.Namespace) -> list[str]:
    """Set `videos` and the annotations, if not given, from what a folder holds.

    Returns the set flags as arguments, for the command that builds. Raises UsageError.
    """
    folder = local_path(data)
    if not folder.is_dir():
        known = builder_names()
        raise UsageError(
            f"{data!r} is neither a folder nor a data set; there are {', '.join(known)}"
            f"{did_you_mean(data, known)}"
        )
    chosen: dict[str, Path] = {}
    if flags.videos is None:
        from signvit_jax.media.video import EXTENSIONS

        has_videos = any(path.suffix.lower() in EXTENSIONS for path in folder.iterdir())
        inner = folder / "videos"
        chosen["videos"] = inner if inner.is_dir() and not has_videos else folder
    if flags.csv is None and flags.eaf is None and flags.subtitles is None:
        kind, path = _annotations_in(folder)
        chosen[kind] = path
    for name, path in chosen.items():
        setattr(flags, name, path)
    return [f"--{name}={path}" for name, path in chosen.items()]


def _annotations_in(folder: Path) -> tuple[str, Path]:
    """Return the option and the path of the annotations in a folder. Raises UsageError."""
    from tfds_builders.annotation_files.recordings import ELAN, SUBTITLES

    tables = sorted(path for path in folder.iterdir() if path.suffix.lower() in TABLE_EXTENSIONS)
    file_names = [name for _, _, names in os.walk(folder) for name in names]
    counts = {
        kind: sum(name.lower().endswith(extensions) for name in file_names)
        for kind, extensions in (("eaf", ELAN), ("subtitles", SUBTITLES))
    }
    candidates = [("csv", path) for path in tables]
    candidates += [(kind, folder) for kind, count in counts.items() if count]
    if len(candidates) == 1:
        return candidates[0]
    names = [path.name for path in tables]
    names += [f"{count} {kind} files" for kind, count in counts.items() if count]
    listed = f"there is {' and '.join(names)}" if names else "there is no such file"
    raise UsageError(
        f"{folder}: {listed} in it; say with --csv=FILE (a table), --eaf=PATH (ELAN files) or "
        "--subtitles=PATH (.vtt or .srt) where the texts of the videos are"
    )


@dataclasses.dataclass
class _CheckedClips:
    """The clips of all splits: those that can be built, and why the others cannot."""

    buildable: list["Clip"] = dataclasses.field(default_factory=list)
    problems: list["Problem"] = dataclasses.field(default_factory=list)
    # By clip id: the length where it is known, and, if frames were read, their digest.
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    digests: dict[str, str] = dataclasses.field(default_factory=dict)
    num_bytes: int = 0  # of all frames as the build would store them; 0 if none was read


def _check_headers(splits: dict[str, list["Clip"]]) -> _CheckedClips:
    """Check clips by the headers of their video files.

    Clips without one, which are drawn or folders of images, count as buildable.
    """
    from signvit_jax.media.image_folder import list_images
    from signvit_jax.media.video import VideoDecodeError, read_header
    from tfds_builders.clips import Problem

    checked = _CheckedClips()
    by_file: dict[str, list[Clip]] = collections.defaultdict(list)
    for clip in itertools.chain.from_iterable(splits.values()):
        if clip.path is None:  # drawn
            checked.buildable.append(clip)
        elif clip.image_rate is not None:  # a folder of images
            checked.buildable.append(clip)
            checked.seconds[clip.id] = len(list_images(clip.path)) / clip.image_rate
        else:
            by_file[clip.path].append(clip)
    with progress_bar("checking") as progress:
        for done, (path, clips) in enumerate(by_file.items(), 1):
            parts = [clip.part for clip in clips]
            try:
                header = read_header(path, parts)
                faults, file_seconds = header.faults, header.seconds
            except VideoDecodeError as error:
                faults, file_seconds = (error.reason,) * len(clips), None
            for clip, (start, end), fault in zip(clips, parts, faults, strict=True):
                if fault is not None:
                    checked.problems.append(Problem.of(clip, fault))
                    continue
                checked.buildable.append(clip)
                known_ends = [time for time in (end, file_seconds) if time is not None]
                if known_ends:
                    checked.seconds[clip.id] = min(known_ends) - (start or 0.0)
            progress(done, len(by_file))
    return checked


def _check_frames(
    splits: dict[str, list["Clip"]], encoding: "Encoding", workers: int
) -> _CheckedClips:
    """Check clips by decoding and encoding all frames, as the build does."""
    from tfds_builders.clips import Problem
    from tfds_builders.encoding import ClipEncoder

    checked = _CheckedClips()
    clips = [clip for clips in splits.values() for clip in clips]
    with (
        progress_bar("reading") as progress,
        ClipEncoder(encoding, workers) as encoder,
    ):
        for done, (clip, result) in enumerate(zip(clips, encoder.encode(clips), strict=True), 1):
            if isinstance(result, Problem):
                checked.problems.append(result)
            else:
                checked.buildable.append(clip)
                checked.seconds[clip.id] = len(result.jpegs) / result.fps
                checked.digests[clip.id] = result.digest
                checked.num_bytes += result.num_bytes
            progress(done, len(clips))
    return checked


def _summary(
    builder: "SignDatasetBuilder",
    splits: dict[str, list["Clip"]],
    checked: _CheckedClips,
    problems: Sequence["Problem"],
    arguments: Sequence[str],
    is_decoded: bool,
) -> str:
    ids = {clip.id for clip in checked.buildable}
    buildable = {name: [clip for clip in clips if clip.id in ids] for name, clips in splits.items()}
    total = len(ids) + len(problems)
    lines = [f"{builder.name}: {len(ids)} of {total} clips can be built", ""]
    lines += _split_table(buildable, checked)
    if is_decoded:
        lines += ["", f"Their frames take {checked.num_bytes / 1e6:.1f} MB."]
    if problems:
        lines += ["", f"{len(problems)} clips cannot be built:", *_reasons(problems)]
    if notes := [*builder.warnings, *_audit_notes(builder, buildable, checked)]:
        lines += ["", "Notes:", *(f"  - {note}" for note in notes)]
    if not is_decoded:
        lines += ["", "Only headers were read. --decode reads every frame and finds damaged ones."]
    if ids:
        options = [argument for argument in arguments if argument != "--decode"]
        if not any(argument.startswith("--data_dir") for argument in options):
            options = ["--data_dir=data", *options]
        lines += ["", f"Build it with:\n  signvit build {builder.name} {shlex.join(options)}"]
    return "\n".join(lines)


def _split_table(splits: dict[str, list["Clip"]], checked: _CheckedClips) -> list[str]:
    """The lines of a table with a row for each split and, if there are several, for all."""
    rows = [_split_row(name, clips, checked) for name, clips in splits.items()]
    if len(splits) > 1:
        rows.append(_split_row("all", checked.buildable, checked))
    head = ("split", "clips", "hours", "words", "different", "glosses", "signers", "videos")
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    lines = [
        "  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in (head, *rows)
    ]
    unknown = sum(clip.id not in checked.seconds for clip in checked.buildable)
    if unknown:
        lines.append(f"  (the length of {unknown} clips is not known without reading them)")
    return lines


def _split_row(name: str, clips: Sequence["Clip"], checked: _CheckedClips) -> tuple[str, ...]:
    from signvit_jax.text import writing_systems

    words = [
        word
        for clip in clips
        for word in writing_systems.units(unicodedata.normalize("NFC", clip.text.casefold()))
    ]
    seconds = sum(checked.seconds.get(clip.id, 0.0) for clip in clips)
    return (
        name,
        str(len(clips)),
        f"{seconds / 3600:.2f}" if seconds >= 360 else f"{seconds / 3600:.4f}",
        str(len(words)),
        str(len(set(words))),
        str(sum(len(clip.gloss.split()) for clip in clips)),
        str(len({clip.signer for clip in clips} - {""})),
        str(len({clip.source_video for clip in clips})),
    )


def _reasons(problems: Sequence["Problem"]) -> list[str]:
    """Lines that list problems by kind, the most frequent kind first.

    Problems are of one kind if the first two words of their reasons are equal, quoted names and
    numbers left out.
    """
    kinds: dict[str, list[Problem]] = collections.defaultdict(list)
    for problem in problems:
        words = re.sub(r"'[^']*'|[\d.]+", "", problem.reason).split()
        kinds[" ".join(words[:2])].append(problem)
    lines = []
    for problems_of_kind in sorted(kinds.values(), key=len, reverse=True):
        lines += [f"  {problem}" for problem in problems_of_kind[:MAX_SHOWN]]
        if len(problems_of_kind) > MAX_SHOWN:
            lines.append(f"  and {len(problems_of_kind) - MAX_SHOWN} more of this kind")
    return lines


def _audit_notes(
    builder: "SignDatasetBuilder", splits: dict[str, list["Clip"]], checked: _CheckedClips
) -> list[str]:
    """Sentences on clips of rest, repeated clips and what splits share, as the build has them."""
    from signvit_jax.data.schema import IndexEntry
    from tfds_builders import audit
    from tfds_builders.media_notes import rest_sentences

    entries = {
        name: [
            IndexEntry(clip.id, 0, 0.0, clip.text, clip.gloss, clip.signer, clip.source_video)
            for clip in clips
        ]
        for name, clips in splits.items()
    }
    digests = {
        name: [checked.digests.get(clip.id, clip.id) for clip in clips]
        for name, clips in splits.items()
    }
    audited = audit.audit(entries, digests, builder.SHARED_VIDEOS, builder.SIGNER_INDEPENDENT)
    num_rest = {name: sum(not clip.text for clip in clips) for name, clips in splits.items()}
    return [*rest_sentences(num_rest), *audit.notes(audited)]


if __name__ == "__main__":
    sys.exit(run_command(main))
