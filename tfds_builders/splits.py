"""The split of each clip: as its table says, else by a hash; and notes on uneven splits."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

from signvit_jax.data import schema
from tfds_builders.clips import Clip, ClipTable
from tfds_builders.options import OptionValues

# Option -> its plural in messages. Clips of the same video, or of the same signer, stay together in
# one split; with "clip" each clip is assigned alone.
VIDEO = "video"
SPLIT_BY = {VIDEO: "source videos", "signer": "signers", "clip": "clips"}
SPLIT_ORDER = (schema.TRAIN, schema.VALIDATION, schema.TEST)


def group_clips(table: ClipTable, by: str | None) -> ClipTable:
    """Return the table with its clips grouped by one of SPLIT_BY, for splits by a hash."""
    if by in (None, VIDEO):
        return table
    clips = [
        dataclasses.replace(clip, grouped_by=clip.signer if by == "signer" else clip.id)
        for clip in table.clips
    ]
    unknown = [clip for clip in clips if not clip.grouped_by]
    note = (
        f"{len(unknown)} clips have no signer, such as {unknown[0].id}: their source video decides "
        "on their split"
        if unknown
        else ""
    )
    return dataclasses.replace(table, clips=clips, notes=[*table.notes, *filter(None, [note])])


def assign_splits(clips: Sequence[Clip], fractions: tuple[float, float]) -> dict[str, list[Clip]]:
    """Return the clips of each split that has any, train first.

    `fractions`: shares of the validation and the test split among clips without a split.
    """
    splits: dict[str, list[Clip]] = collections.defaultdict(list)
    for clip in clips:
        splits[clip.split or schema.split_of(clip.split_group, *fractions)].append(clip)
    others = sorted(set(splits) - set(SPLIT_ORDER))
    return {name: splits[name] for name in (*SPLIT_ORDER, *others) if name in splits}


def split_notes(
    splits: Mapping[str, Sequence[Clip]], fractions: tuple[float, float], options: OptionValues
) -> list[str]:
    """Sentences on splits by a hash that are empty or far from their share, each with advice.

    Args:
        splits: the clips of each split.
        fractions: shares of the validation and the test split.
        options: options of the builder; the sentences name those that would help.
    """
    by_hash = [clip for clips in splits.values() for clip in clips if clip.split is None]
    if not by_hash:
        return []
    validation, test = fractions
    shares: dict[str, float] = {
        schema.VALIDATION: validation,
        schema.TEST: test,
        schema.TRAIN: 1.0 - (validation + test),
    }
    counts = {name: len(splits.get(name, ())) for name in SPLIT_ORDER}
    total = sum(counts.values())
    empty = [name for name in SPLIT_ORDER if shares[name] > 1e-9 and not counts[name]]
    all_in_one = len(by_hash) > 1 and max(counts.values()) == total
    if empty and all_in_one:
        (name,) = (name for name, count in counts.items() if count)
        names = " and ".join(map(repr, empty))
        others = f"splits {names} are" if len(empty) > 1 else f"split {names} is"
        return [
            f"all {total} clips are in the split {name!r}, and the {others} empty: "
            f"{_why_few_videos(by_hash, options)}"
        ]
    if empty:
        return [
            f"the split {name!r} is empty: {_why_few_videos(by_hash, options, shares[name])}"
            for name in empty
        ]
    if not all_in_one and counts[schema.TRAIN] < 0.5 * shares[schema.TRAIN] * total:
        return [
            f"only {counts[schema.TRAIN]} of {total} clips are in the split 'train': "
            f"{_why_few_videos(by_hash, options)}"
        ]
    return []


def _why_few_videos(
    clips: Sequence[Clip], options: OptionValues, fraction: float | None = None
) -> str:
    """The number of source videos, the way clips are assigned to them, and how to change it."""
    groups = collections.Counter(clip.split_group for clip in clips)
    split_by = options.get("split_by")
    kind = SPLIT_BY.get(split_by or VIDEO, SPLIT_BY[VIDEO])
    if len(groups) > 1:
        share = "" if fraction is None else f" for a share of {fraction:g}"
        reason = f"{len(groups)} {kind} are too few{share}"
    else:
        reason = f"they are of one {kind[:-1]}, which no split shares with another"
    clip_by_clip = ", --split_by=clip" if "split_by" in options and split_by != "clip" else ""
    advice = f"give a column 'split'{clip_by_clip}, or other fractions"
    # Clips that count as parts of one video only because of how their uids end.
    parts_by_name = (
        clip
        for clip in clips
        if not clip.grouped_by
        and not clip.video_id
        and clip.source_video != clip.id
        and groups[clip.source_video] > 1
    )
    part = next(parts_by_name, None)
    if part is None:
        return f"{reason}; {advice}"
    flag = ""
    if "video_id_column" in options:
        flag = " (--video_id_column=uid makes every clip its own video)"
    return (
        f"{reason}, for the source video of a uid ends at its last '-' before a number: "
        f"{part.id!r} is a part of {part.source_video!r}, as are "
        f"{groups[part.source_video] - 1} others. If these are separate recordings, "
        f"name them in a column 'video_id'{flag}; else {advice}"
    )
