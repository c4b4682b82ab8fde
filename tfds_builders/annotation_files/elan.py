"""Texts and glosses of ELAN files (.eaf): the annotations of their tiers, with times."""

import bisect
import dataclasses
import difflib
import fnmatch
import os
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tfds_builders.annotation_files.eaf_document import Annotation, EafDocument, MediaLink, Tier
from tfds_builders.annotation_files.tables import AnnotationError
from tfds_builders.clips import Segment

# Names of the tiers that are read without a flag, as the columns `text` and `gloss` of a table are.
TEXT_TIER, GLOSS_TIER = "text", "gloss"
LISTED_TIERS = 30


@dataclasses.dataclass(frozen=True)
class ElanFile:
    """The content of a file that clips are made of."""

    links: list[MediaLink]  # of videos, in the order of the file
    segments: list[Segment]  # annotations with text, by time
    problems: list[tuple[int, str]]  # (line, reason) of texts that have no usable time
    num_empty: int  # annotations of the text tiers without text
    num_loose: int  # annotations of the gloss tiers outside of every text


class _Sign(NamedTuple):
    """A gloss; times in milliseconds."""

    tier: str
    number: int  # in its tier
    start: float
    end: float
    text: str

    @property
    def key(self) -> tuple[str, int]:
        return self.tier, self.number

    @property
    def middle(self) -> float:
        return (self.start + self.end) / 2


def read_elan(
    path: str | os.PathLike, text_tier: str | None = None, gloss_tier: str | None = None
) -> ElanFile:
    """Read the texts and glosses of an ELAN file.

    Args:
        path: the file.
        text_tier, gloss_tier: names of tiers, separated by commas; case is ignored, and `*` stands
            for any characters. By default `text` and `gloss`; if there is no tier `text`, the only
            tier with texts.

    Raises:
        AnnotationError: the file is not of the format, or it is not clear which tier is meant.
    """
    document = EafDocument(path)
    tiers = [tier for tier in document.tiers if tier.annotations]
    glosses = _chosen(path, tiers, gloss_tier, "gloss_tier") if gloss_tier else None
    if text_tier:
        texts = _chosen(path, tiers, text_tier, "text_tier")
    else:
        texts = [_default_text_tier(path, tiers, glosses or ())]
    if glosses is None:
        glosses = [tier for tier in tiers if _folded(tier.name) == GLOSS_TIER]
    both = [tier.name for tier in texts if any(tier is other for other in glosses)]
    if both:
        raise AnnotationError(
            f"{path}: the tier {both[0]!r} is both --text_tier and --gloss_tier; give each another"
        )
    return _TextsWithGlosses(document, texts, glosses).result(path)


def _default_text_tier(
    path: str | os.PathLike, tiers: Sequence[Tier], glosses: Sequence[Tier]
) -> Tier:
    others = [tier for tier in tiers if not any(tier is gloss for gloss in glosses)]
    named = [tier for tier in others if _folded(tier.name) == TEXT_TIER]
    filled = [tier for tier in others if tier.num_texts and _folded(tier.name) != GLOSS_TIER]
    if named or len(filled) == 1:
        return (named or filled)[0]
    if not filled:
        raise AnnotationError(f"{path}: no annotation with a text in it")
    raise AnnotationError(
        f"{path}: {len(filled)} tiers have texts: {_listed(filled)}. "
        "--text_tier=NAME says which of them is the translation"
    )


def _chosen(path: str | os.PathLike, tiers: Sequence[Tier], value: str, option: str) -> list[Tier]:
    """Return the tiers that an option names. Raises AnnotationError for a name without a tier."""
    exact = [tier for tier in tiers if _folded(tier.name) == _folded(value)]
    if exact:
        return exact  # a name may contain a comma
    chosen: list[Tier] = []
    for name in filter(None, map(str.strip, value.split(","))):
        folded = _folded(name)
        matching = [tier for tier in tiers if fnmatch.fnmatchcase(_folded(tier.name), folded)]
        if not matching:  # a name may contain characters that fnmatch interprets
            matching = [tier for tier in tiers if _folded(tier.name) == folded]
        if not matching:
            names = {_folded(tier.name): tier.name for tier in tiers}
            near = difflib.get_close_matches(folded, names, n=1, cutoff=0.5)
            hint = f"; did you mean {names[near[0]]!r}?" if near else ""
            existing = _listed(tiers) if tiers else "no tier with annotations"
            raise AnnotationError(
                f"{path}: no tier {name!r} for --{option}; it has {existing}{hint}"
            )
        chosen += matching
    return [*{id(tier): tier for tier in chosen}.values()]  # each tier once


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip()).casefold()


def _listed(tiers: Sequence[Tier]) -> str:
    descriptions = []
    for tier in tiers[:LISTED_TIERS]:
        num_empty = len(tier.annotations) - tier.num_texts
        empty = f", {num_empty} empty" if num_empty else ""
        descriptions.append(f"{tier.name[:60]!r} ({tier.num_texts} texts{empty})")
    others = len(tiers) - LISTED_TIERS
    return ", ".join(descriptions) + (f" and {others} more" if others > 0 else "")


class _TextsWithGlosses:
    """The texts of tiers with the glosses that belong to them."""

    def __init__(self, document: EafDocument, texts: Sequence[Tier], glosses: Sequence[Tier]):
        self._document, self._texts, self._glosses = document, texts, glosses
        self._tiers = {tier.name: tier for tier in document.tiers}
        self._by_id = {
            annotation.id: annotation for tier in document.tiers for annotation in tier.annotations
        }
        self._slot_times = document.slot_times()
        self._roots: dict[str, Annotation | None] = {}  # by the id of an annotation

    def result(self, path: str | os.PathLike) -> ElanFile:
        segments: list[Segment] = []
        problems: list[tuple[int, str]] = []
        num_empty = 0
        used: set[tuple[str, int]] = set()  # keys of the glosses that belong to a text
        gloss_tiers = self._gloss_tiers(path)
        for tier in self._texts:
            glosses = self._signs(gloss_tiers[tier.name])
            middles = [sign.middle for sign in glosses]
            for group in self._groups(tier):
                text = " ".join(annotation.text for annotation in group if annotation.text)
                root = self._root(group[0])
                if not text:
                    num_empty += len(group)
                    continue
                if root is None or any(slot not in self._document.times for slot in root.slots):
                    reason = "its start or its end has no time; align the annotation in ELAN"
                    problems.append((group[0].line, reason))
                    continue
                start, end = (self._document.times[slot] for slot in root.slots)
                first, last = bisect.bisect_left(middles, start), bisect.bisect_right(middles, end)
                signs = [sign for sign in glosses[first:last] if sign.key not in used]
                used |= {sign.key for sign in signs}
                segments.append(
                    Segment(
                        start,
                        end,
                        text,
                        " ".join(_without_other_hand(signs)),
                        tier.participant,
                        group[0].line,
                    )
                )
        num_glosses = sum(tier.num_texts for tier in self._glosses)
        segments.sort(key=lambda segment: (segment.start, segment.end))
        return ElanFile(
            self._document.links, segments, problems, num_empty, num_glosses - len(used)
        )

    def _gloss_tiers(self, path: str | os.PathLike) -> dict[str, list[Tier]]:
        """The gloss tiers of each text tier: those of its signer; all if it is the only one."""
        if len(self._texts) == 1:
            return {self._texts[0].name: [*self._glosses]}
        by_text: dict[str, list[Tier]] = {tier.name: [] for tier in self._texts}
        for gloss in self._glosses:
            related = [text for text in self._texts if self._top(text) == self._top(gloss)]
            if not related and gloss.participant:
                related = [text for text in self._texts if text.participant == gloss.participant]
            if len(related) != 1:
                names = ", ".join(repr(text.name) for text in self._texts)
                raise AnnotationError(
                    f"{path}: it is not clear to which of the tiers {names} the glosses of "
                    f"{gloss.name!r} belong; give both the same participant, or a common parent, "
                    "in ELAN"
                )
            by_text[related[0].name].append(gloss)
        return by_text

    def _top(self, tier: Tier) -> str:
        """The name of the topmost parent of a tier."""
        visited: set[str] = set()
        while tier.parent in self._tiers and tier.name not in visited:
            visited.add(tier.name)
            tier = self._tiers[tier.parent]
        return tier.name

    def _root(self, annotation: Annotation) -> Annotation | None:
        """The annotation that gives this one its times: the first ancestor without a parent.

        None if an ancestor is missing, or if parents form a circle.
        """
        path: list[str] = []
        root: Annotation | None = annotation
        while root is not None and root.parent:
            if root.id in self._roots:
                root = self._roots[root.id]
                break
            self._roots[root.id] = None  # ends the loop where parents form a circle
            path.append(root.id)
            root = self._by_id.get(root.parent)
        for name in path:
            self._roots[name] = root
        return root

    def _groups(self, tier: Tier) -> Iterable[list[Annotation]]:
        """The annotations of a tier, grouped by the annotation that gives them their times."""
        groups: dict[str, list[Annotation]] = {}
        for number, annotation in enumerate(tier.annotations):
            root = self._root(annotation) if annotation.parent else None
            # Without a parent, or with a missing one, an annotation is its own group. XML has no
            # NUL, so the key differs from all ids.
            key = f"\0{number}" if root is None else root.id
            groups.setdefault(key, []).append(annotation)
        return [_in_order(group) for group in groups.values()]

    def _signs(self, tiers: Sequence[Tier]) -> list[_Sign]:
        """The glosses of tiers in the order of their times."""
        signs: list[_Sign] = []
        for tier in tiers:
            for group in self._groups(tier):
                root = self._root(group[0])
                if root is None or any(slot not in self._slot_times for slot in root.slots):
                    continue
                start, end = (self._slot_times[slot] for slot in root.slots)
                for annotation in group:
                    if annotation.text:
                        sign = _Sign(tier.name, len(signs), start, end, annotation.text)
                        signs.append(sign)
        return sorted(signs, key=lambda sign: sign.middle)  # stable: a group keeps its order


def _in_order(group: list[Annotation]) -> list[Annotation]:
    """Annotations of one parent, each after its `previous`."""
    ids = {annotation.id for annotation in group}
    following = {a.previous: a for a in group if a.previous in ids}
    first = [annotation for annotation in group if annotation.previous not in ids]
    ordered = first[:1]
    while ordered and (after := following.pop(ordered[-1].id, None)) is not None:
        ordered.append(after)
    return ordered if len(ordered) == len(group) else group


def _without_other_hand(signs: Sequence[_Sign]) -> list[str]:
    """The glosses, each once if the tiers of both hands have it at the same time."""
    kept: list[str] = []
    ends: dict[str, dict[str, float]] = {}  # gloss -> tier -> end of its last such sign
    for sign in sorted(signs, key=lambda sign: sign.start):
        known = ends.setdefault(sign.text, {})
        if not any(tier != sign.tier and sign.start < end for tier, end in known.items()):
            kept.append(sign.text)
            known[sign.tier] = max(sign.end, known.get(sign.tier, sign.end))
    return kept
