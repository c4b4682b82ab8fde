"""The XML of ELAN files (.eaf): tiers, annotations, time slots. The files are untrusted.

The format is EAF 2 and 3 (https://www.mpi.nl/tools/elan/EAF_Annotation_Format_3.0_and_ELAN.pdf).
"""

import dataclasses
import os
from typing import NamedTuple, NoReturn
from xml.parsers import expat

from tfds_builders.annotation_files.tables import AnnotationError

MAX_BYTES = 256 << 20  # a file of 100,000 annotations has 30 MB
MAX_TIERS = 2000
MAX_TIME_DIGITS = 12  # of milliseconds: 30 years


class MediaLink(NamedTuple):
    """A recording that a file names."""

    url: str  # relative to the file or absolute, as the file has it
    offset: float  # seconds in the recording where the time of the annotations begins


@dataclasses.dataclass(frozen=True)
class Annotation:
    """A text. Its times are those of its `slots`, or those of its `parent`."""

    id: str
    text: str
    line: int
    slots: tuple[str, str] = ("", "")  # time slots of its start and end, if it has no parent
    parent: str = ""  # id of the annotation that gives it its times
    previous: str = ""  # the annotation before it, of the same parent


@dataclasses.dataclass(frozen=True)
class Tier:
    """A row of annotations, such as the glosses of one signer."""

    name: str
    parent: str
    participant: str
    annotations: list[Annotation] = dataclasses.field(default_factory=list)

    @property
    def num_texts(self) -> int:
        return sum(bool(annotation.text) for annotation in self.annotations)


class EafDocument:
    """A parsed file. Raises AnnotationError.

    A file with a document type declaration is refused, so no entity is ever expanded.

    Attributes:
        links: The videos that it names.
        tiers: All tiers, in the order of the file.
        times: Milliseconds of the time slots that have a time.
    """

    def __init__(self, path: str | os.PathLike):
        self.links: list[MediaLink] = []
        self.tiers: list[Tier] = []
        self.times: dict[str, int] = {}  # of aligned slots, in milliseconds
        self._slots: list[tuple[str, int | None]] = []  # in the order of the file
        self._is_elan = False
        # The annotation that is being parsed: its attributes, line, and parts of its text.
        self._annotation: dict[str, str] | None = None
        self._line = 0
        self._text: list[str] | None = None
        self._path = path
        self._parser = parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        try:
            size = os.path.getsize(path)
            if size > MAX_BYTES:
                raise AnnotationError(
                    f"{path}: {size} bytes; allowed: at most {MAX_BYTES} for an .eaf file"
                )
            with open(path, "rb") as file:
                parser.ParseFile(file)
        except OSError as error:
            raise AnnotationError(f"{path}: cannot be read ({error.strerror})") from error
        except (expat.ExpatError, ValueError, LookupError) as error:
            if isinstance(error, AnnotationError):
                raise
            raise AnnotationError(
                f"{path}: not an ELAN file: it is not XML, or it is damaged ({error})"
            ) from error
        if not self._is_elan:
            raise AnnotationError(
                f"{path}: not an ELAN file: its first element is not ANNOTATION_DOCUMENT"
            )

    def slot_times(self) -> dict[str, float]:
        """Milliseconds of each time slot.

        Slots without a time are spread evenly between the neighbors that have one.
        """
        times: dict[str, float] = dict(self.times)
        before: float | None = None  # the last known time
        unknown: list[str] = []  # slots after it
        for slot, time in self._slots:
            if time is None:
                unknown.append(slot)
                continue
            if before is not None:
                for place, between in enumerate(unknown, 1):
                    times[between] = before + (time - before) * place / (len(unknown) + 1)
            before, unknown = time, []
        return times

    def _refuse_doctype(self, *_: object) -> NoReturn:
        raise AnnotationError(
            f"{self._path}: it has a document type declaration, which no ELAN file has and which "
            "can be an attack; save it with ELAN"
        )

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        get = attributes.get
        if tag == "ANNOTATION_DOCUMENT":
            self._is_elan = True
        elif tag == "HEADER" and get("TIME_UNITS", "milliseconds") != "milliseconds":
            raise AnnotationError(
                f"{self._path}: its times are in {get('TIME_UNITS')}; allowed: milliseconds; "
                "save it with a newer ELAN"
            )
        elif tag == "MEDIA_DESCRIPTOR":
            self._take_link(attributes)
        elif tag == "TIME_SLOT":
            time = get("TIME_VALUE", "")
            milliseconds = int(time) if _is_time(time) else None
            self._slots.append((get("TIME_SLOT_ID", ""), milliseconds))
            if milliseconds is not None:
                self.times[get("TIME_SLOT_ID", "")] = milliseconds
        elif tag == "TIER":
            if len(self.tiers) == MAX_TIERS:
                raise AnnotationError(
                    f"{self._path}: more than {MAX_TIERS} tiers; allowed: at most {MAX_TIERS}"
                )
            participant = " ".join(get("PARTICIPANT", "").split())
            self.tiers.append(Tier(get("TIER_ID", ""), get("PARENT_REF", ""), participant))
        elif tag in ("ALIGNABLE_ANNOTATION", "REF_ANNOTATION"):
            self._annotation, self._line = attributes, self._parser.CurrentLineNumber
            self._text = []

    def _end(self, tag: str) -> None:
        if tag not in ("ALIGNABLE_ANNOTATION", "REF_ANNOTATION"):
            return
        attributes, text = self._annotation, self._text
        if attributes is None or text is None:
            return
        self._annotation = self._text = None
        if self.tiers:
            get = attributes.get
            self.tiers[-1].annotations.append(
                Annotation(
                    get("ANNOTATION_ID", ""),
                    " ".join("".join(text).split()),
                    self._line,
                    (get("TIME_SLOT_REF1", ""), get("TIME_SLOT_REF2", "")),
                    get("ANNOTATION_REF", ""),
                    get("PREVIOUS_ANNOTATION", ""),
                )
            )

    def _characters(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def _take_link(self, attributes: dict[str, str]) -> None:
        if attributes.get("MIME_TYPE", "").startswith("audio/"):
            return
        origin = attributes.get("TIME_ORIGIN", "")
        offset = int(origin) / 1000 if _is_time(origin) else 0.0
        for name in ("RELATIVE_MEDIA_URL", "MEDIA_URL"):
            if url := attributes.get(name, ""):
                self.links.append(MediaLink(url, offset))


def _is_time(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= MAX_TIME_DIGITS
