"""Duplicates in a built data set, and what its splits share: both make scores too good."""

import collections
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypedDict

from signvit_jax.data.schema import TRAIN, IndexEntry, SharedValues

LISTED = 50  # groups that the report lists; all are counted


class ListedClip(TypedDict):
    """A clip that the report names."""

    split: str
    id: str


class SameFrames(TypedDict):
    """Groups of clips with the same frames."""

    groups: int
    clips: int  # in all groups
    groups_across_splits: int
    listed: list[list[ListedClip]]


class SeenTexts(TypedDict):
    """Texts of a split that are in the training split too."""

    clips: int
    of: int
    example: str  # "" without one


class RepeatedText(TypedDict):
    """A text, and the number of clips that have it."""

    text: str
    clips: int


class SameText(TypedDict):
    """Texts of several clips."""

    texts: int
    clips: int
    seen_in_train: dict[str, SeenTexts]  # by split
    listed: list[RepeatedText]


class Audit(TypedDict):
    """What `audit` found: a part of build_report.json."""

    same_frames: SameFrames
    same_text: SameText
    shared_videos: list[SharedValues]
    shared_signers: list[SharedValues]


def audit(
    splits: Mapping[str, Sequence[IndexEntry]],
    digests: Mapping[str, Sequence[str]],
    shared_videos_allowed: bool,
    signer_independent: bool,
) -> Audit:
    """Return duplicate clips and texts, and videos and signers that splits share.

    Args:
        digests: of the frames of each clip, in the order of `splits`.
        shared_videos_allowed, signer_independent: the protocol of the data set.
    """
    return {
        "same_frames": _same_frames(splits, digests),
        "same_text": _same_text(splits),
        "shared_videos": _shared(splits, lambda entry: entry.video_id, shared_videos_allowed),
        "shared_signers": _shared(splits, lambda entry: entry.signer, not signer_independent),
    }


def notes(results: Audit) -> list[str]:
    """Return sentences for the user; what the protocol allows is only in the report."""
    sentences = []
    frames = results["same_frames"]
    if frames["groups"]:
        first = " and ".join(f"{clip['id']} ({clip['split']})" for clip in frames["listed"][0][:2])
        across = (
            f"; {frames['groups_across_splits']} of these groups are in more than one split"
            if frames["groups_across_splits"]
            else ""
        )
        sentences.append(
            f"{frames['clips']} clips have the same frames as another, "
            f"in {frames['groups']} groups, such as {first}{across}"
        )
    for split, share in results["same_text"]["seen_in_train"].items():
        if share["clips"]:
            sentences.append(
                f"{share['clips']} of the {share['of']} texts of {split} are word for word in "
                f"train too, such as {share['example']!r}"
            )
    for kind, name in (("shared_videos", "source videos"), ("shared_signers", "signers")):
        sentences += [
            f"{pair['count']} {name} have clips in {pair['splits'][0]} as well as in "
            f"{pair['splits'][1]} (such as {pair['listed'][0]}): "
            f"scores on {pair['splits'][1]} will be too good"
            for pair in results[kind]
            if not pair["allowed"]
        ]
    return sentences


def _same_frames(
    splits: Mapping[str, Sequence[IndexEntry]], digests: Mapping[str, Sequence[str]]
) -> SameFrames:
    by_digest: dict[str, list[ListedClip]] = collections.defaultdict(list)
    for split, entries in splits.items():
        for entry, digest in zip(entries, digests[split], strict=True):
            by_digest[digest].append({"split": split, "id": entry.id})
    groups = [clips for clips in by_digest.values() if len(clips) > 1]
    across = sum(len({clip["split"] for clip in clips}) > 1 for clips in groups)
    return {
        "groups": len(groups),
        "clips": sum(map(len, groups)),
        "groups_across_splits": across,
        "listed": groups[:LISTED],
    }


def _same_text(splits: Mapping[str, Sequence[IndexEntry]]) -> SameText:
    counts = collections.Counter(
        entry.text for entries in splits.values() for entry in entries if entry.text
    )
    repeated = [(text, count) for text, count in counts.most_common() if count > 1]
    train = {entry.text for entry in splits.get(TRAIN, ()) if entry.text}
    seen: dict[str, SeenTexts] = {}
    for split, entries in splits.items():
        known = [entry.text for entry in entries if entry.text in train]
        if split != TRAIN:
            seen[split] = {
                "clips": len(known),
                "of": len(entries),
                "example": known[0] if known else "",
            }
    listed: list[RepeatedText] = [
        {"text": text, "clips": count} for text, count in repeated[:LISTED]
    ]
    return {
        "texts": len(repeated),
        "clips": sum(count for _, count in repeated),
        "seen_in_train": seen,
        "listed": listed,
    }


def _shared(
    splits: Mapping[str, Iterable[IndexEntry]], key: Callable[[IndexEntry], str], allowed: bool
) -> list[SharedValues]:
    values = {split: {key(entry) for entry in entries} - {""} for split, entries in splits.items()}
    pairs: list[SharedValues] = []
    for a, b in itertools.combinations(values, 2):
        if both := sorted(values[a] & values[b]):
            pairs.append(
                {"splits": [a, b], "count": len(both), "allowed": allowed, "listed": both[:LISTED]}
            )
    return pairs
