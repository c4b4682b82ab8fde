"""Notes on the stored clips of a data set: oddities of their videos, and clips of rest."""

import collections
from collections.abc import Iterable, Mapping
from typing import TypedDict

from signvit_jax.data.schema import STORED_FRAME_RATE
from tfds_builders.audit import LISTED


class MediaNote(TypedDict):
    """The clips with one of `JpegVideo.notes`."""

    clips: int
    listed: list[str]  # ids of some of them


def media_notes(noted: Iterable[Mapping[str, list[str]]]) -> dict[str, MediaNote]:
    """Return the number of clips with each of `JpegVideo.notes`, and some of them.

    `noted`: for each shard, note -> ids of the clips with it.
    """
    ids = collections.defaultdict(list)
    for by_kind in noted:
        for kind, clips in by_kind.items():
            ids[kind] += clips
    return {
        kind: {"clips": len(clips), "listed": clips[:LISTED]} for kind, clips in sorted(ids.items())
    }


MEDIA_NOTES = {
    "variable_rate": (
        "{clips} clips have a variable frame rate, such as {first}: stored at the rate of their "
        f"densest stretch, at most {STORED_FRAME_RATE:g} per second, with the frames of "
        "slower stretches repeated"
    ),
    "end_cut": (
        "{clips} clips end a little later in the table than their video, such as {first}: "
        "stored up to the end of the video"
    ),
    "size_change": (
        "{clips} clips change the size of their frames, such as {first}: stored in the size of the "
        "first, between black bars where the shape differs"
    ),
    "several_streams": (
        "{clips} clips are of files with several video streams, such as {first}: "
        "the default one is stored"
    ),
}


def media_sentences(media: Mapping[str, MediaNote]) -> list[str]:
    """Sentences on the clips with each note."""
    return [
        MEDIA_NOTES[kind].format(clips=noted["clips"], first=noted["listed"][0])
        for kind, noted in media.items()
        if kind in MEDIA_NOTES
    ]


def rest_sentences(num_rest: Mapping[str, int]) -> list[str]:
    """A sentence on clips in which nobody signs, given their number in each split."""
    if not any(num_rest.values()):
        return []
    counts = ", ".join(f"{name} {count}" for name, count in num_rest.items() if count)
    return [f"in {sum(num_rest.values())} clips nobody signs ({counts}): the text is empty"]
