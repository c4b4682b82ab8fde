"""A writer of ELAN files in the form in which ELAN writes them."""

from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr


class Eaf:
    """An ELAN file. Tiers and annotations are added to it; `str(eaf)` is its text."""

    def __init__(self, *links: str, offset: int | None = None, units: str = "milliseconds"):
        """Create a file without tiers.

        `links`: relative addresses of videos. `offset`: the TIME_ORIGIN of the first video, in ms.
        `units`: the unit of all times, as the header names it.
        """
        self._links = [
            f"<MEDIA_DESCRIPTOR MEDIA_URL={quoteattr('file:///C:/corpus/' + link)} "
            f'MIME_TYPE="video/mp4" RELATIVE_MEDIA_URL={quoteattr(link)}'
            + (f' TIME_ORIGIN="{offset}"' if offset is not None and not number else "")
            + "/>"
            for number, link in enumerate(links)
        ]
        self._units = units
        self._slots: list[int | None] = []
        self._tiers: list[str] = []
        self._count = 0

    def slot(self, time: int | None) -> int:
        """Add a time slot (None: a slot without a time); return its number."""
        self._slots.append(time)
        return len(self._slots) - 1

    def tier(
        self,
        name: str,
        spans: Sequence[tuple[int | None, int | None, str]],
        participant: str = "",
        parent: str = "",
    ) -> list[str]:
        """Add a tier of (start, end, text), in milliseconds; return the ids of its annotations."""
        slots = [(self.slot(start), self.slot(end), text) for start, end, text in spans]
        return self.slotted_tier(name, slots, participant, parent)

    def slotted_tier(
        self,
        name: str,
        spans: Sequence[tuple[int, int, str]],
        participant: str = "",
        parent: str = "",
    ) -> list[str]:
        """Add a tier as `tier` does, but of (start slot, end slot, text); see `slot`."""
        ids = [self._id() for _ in spans]
        inner = [
            f'<ALIGNABLE_ANNOTATION ANNOTATION_ID="{annotation_id}" TIME_SLOT_REF1="ts{start}" '
            f'TIME_SLOT_REF2="ts{end}"><ANNOTATION_VALUE>{escape(text)}</ANNOTATION_VALUE>'
            "</ALIGNABLE_ANNOTATION>"
            for annotation_id, (start, end, text) in zip(ids, spans, strict=True)
        ]
        self._add(name, inner, participant, parent)
        return ids

    def children(
        self,
        name: str,
        texts: Sequence[tuple[str, str]],
        parent: str = "",
        participant: str = "",
        chained: bool = True,
        reverse: bool = False,
    ) -> list[str]:
        """Add a symbolic tier of (id of the parent annotation, text); return the new ids.

        Each child names the previous child of its parent, unless `chained` is False. `reverse`:
        write the children in reverse order.
        """
        ids = []
        inner = []
        last = {}
        for parent_id, text in texts:
            ids.append(self._id())
            previous = last.get(parent_id)
            last[parent_id] = ids[-1]
            chain = f' PREVIOUS_ANNOTATION="{previous}"' if previous and chained else ""
            inner.append(
                f'<REF_ANNOTATION ANNOTATION_ID="{ids[-1]}" ANNOTATION_REF="{parent_id}"{chain}>'
                f"<ANNOTATION_VALUE>{escape(text)}</ANNOTATION_VALUE></REF_ANNOTATION>"
            )
        self._add(name, inner[::-1] if reverse else inner, participant, parent)
        return ids

    def _id(self) -> str:
        self._count += 1
        return f"a{self._count}"

    def _add(self, name: str, inner: Sequence[str], participant: str, parent: str) -> None:
        attributes = f"LINGUISTIC_TYPE_REF='t' TIER_ID={quoteattr(name)}"
        if participant:
            attributes += f" PARTICIPANT={quoteattr(participant)}"
        if parent:
            attributes += f" PARENT_REF={quoteattr(parent)}"
        annotations = "\n".join(f"<ANNOTATION>{annotation}</ANNOTATION>" for annotation in inner)
        self._tiers.append(f"<TIER {attributes}>\n{annotations}\n</TIER>")

    def __str__(self) -> str:
        slots = "\n".join(
            f'<TIME_SLOT TIME_SLOT_ID="ts{number}"'
            + (f' TIME_VALUE="{time}"' if time is not None else "")
            + "/>"
            for number, time in enumerate(self._slots)
        )
        parts = [
            '<?xml version="1.0" encoding="UTF-8"?>',
            '<ANNOTATION_DOCUMENT AUTHOR="" DATE="2026-01-01T00:00:00+01:00" FORMAT="3.0" '
            'VERSION="3.0" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">',
            "<LICENSE LICENSE_URL=''/>",
            f'<HEADER MEDIA_FILE="" TIME_UNITS="{self._units}">',
            *self._links,
            '<PROPERTY NAME="lastUsedAnnotationId">9</PROPERTY></HEADER>',
            f"<TIME_ORDER>\n{slots}\n</TIME_ORDER>",
            *self._tiers,
            '<LINGUISTIC_TYPE GRAPHIC_REFERENCES="false" LINGUISTIC_TYPE_ID="t"/>',
            "</ANNOTATION_DOCUMENT>\n",
        ]
        return "\n".join(parts)
