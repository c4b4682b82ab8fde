"""ELAN (.eaf), version 3.0: captions as a tier.

Researchers can correct it in ELAN, and `tfds_builders` can build a data set from it.
"""

import datetime
import mimetypes
import urllib.parse
from collections.abc import Sequence

from signvit_jax.captions.segments import Cue, one_line
from signvit_jax.captions.ttml import xml_text
from signvit_jax.captions.word_times import unit_begins

TEXT_TIER, WORDS_TIER = "text", "words"

type _Span = tuple[int, int, str]  # start and end in milliseconds, text


def as_eaf(cues: Sequence[Cue], video: str = "", word_times: bool = False) -> str:
    """Return the text of an .eaf file with the tier "text", and with `word_times` "words".

    `video` is the relative path of the video: the file shall not name a folder of this machine.
    Annotations of one tier cannot overlap, so the words keep the order of the text, and each lasts
    until the next one begins.
    """
    tiers = {TEXT_TIER: [(cue.start, cue.end, cue.text) for cue in cues]}
    if word_times:
        tiers[WORDS_TIER] = [span for cue in cues for span in _word_spans(cue)]
    slots: list[int] = []  # milliseconds; two for each annotation, its start and its end
    blocks: list[str] = []
    count = 0
    for name, spans in tiers.items():
        annotations: list[str] = []
        for start, end, text in spans:
            count += 1
            slots += [start, end]
            annotations.append(
                "    <ANNOTATION>\n"
                f'      <ALIGNABLE_ANNOTATION ANNOTATION_ID="a{count}" '
                f'TIME_SLOT_REF1="ts{len(slots) - 1}" TIME_SLOT_REF2="ts{len(slots)}">\n'
                f"        <ANNOTATION_VALUE>{xml_text(text)}</ANNOTATION_VALUE>\n"
                "      </ALIGNABLE_ANNOTATION>\n"
                "    </ANNOTATION>\n"
            )
        blocks.append(
            f'  <TIER LINGUISTIC_TYPE_REF="default-lt" TIER_ID="{name}">\n'
            f"{''.join(annotations)}  </TIER>\n"
        )
    # ELAN expects the slots sorted by time.
    order = sorted(range(len(slots)), key=lambda number: slots[number])
    times = "".join(
        f'    <TIME_SLOT TIME_SLOT_ID="ts{number + 1}" TIME_VALUE="{slots[number]}"/>\n'
        for number in order
    )
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<ANNOTATION_DOCUMENT AUTHOR="" DATE="{now}" FORMAT="3.0" VERSION="3.0" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        'xsi:noNamespaceSchemaLocation="http://www.mpi.nl/tools/elan/EAFv3.0.xsd">\n'
        '  <HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">\n'
        f"{_media(video)}"
        f'    <PROPERTY NAME="lastUsedAnnotationId">{count}</PROPERTY>\n'
        "  </HEADER>\n"
        f"  <TIME_ORDER>\n{times}  </TIME_ORDER>\n"
        f"{''.join(blocks)}"
        '  <LINGUISTIC_TYPE GRAPHIC_REFERENCES="false" LINGUISTIC_TYPE_ID="default-lt" '
        'TIME_ALIGNABLE="true"/>\n'
        "</ANNOTATION_DOCUMENT>\n"
    )


def _media(video: str) -> str:
    if not video:
        return ""
    url = xml_text(urllib.parse.quote(video, errors="surrogateescape"))
    kind = mimetypes.guess_type(video)[0] or "video/mp4"
    return (
        f'    <MEDIA_DESCRIPTOR MEDIA_URL="{url}" MIME_TYPE="{kind}" RELATIVE_MEDIA_URL="{url}"/>\n'
    )


def _word_spans(cue: Cue) -> list[_Span]:
    """The words of a cue with their times.

    A word that would last less than a millisecond is appended to the annotation before it.
    """
    words = [(" " if word.space else "") + one_line(word.text) for word in cue.words]
    begins = unit_begins(cue, words)
    spans: list[_Span] = []
    for word, start, end in zip(words, begins, [*begins[1:], cue.end]):
        if not word.strip():
            continue
        if start < end or not spans:
            spans.append((start, max(end, start), word.strip()))
        else:
            spans[-1] = (spans[-1][0], spans[-1][1], spans[-1][2] + word)
    return [span for span in spans if span[0] < span[1]]
