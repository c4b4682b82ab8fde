"""Records of a data set: the stored clips, as TFDS writes them."""

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import numpy as np
from jaxtyping import Float16

from signvit_jax.data.keypoints import known_share
from signvit_jax.data.schema import IndexEntry


class Record(TypedDict):
    """A stored clip; `signvit_jax.data.schema` describes the keys. `video` is a list of JPEGs."""

    id: str
    video: list[bytes]
    fps: float
    text: str
    gloss: str
    signer: str
    video_id: str
    start: float
    end: float
    keypoints: NotRequired[Float16[np.ndarray, "t k 3"]]  # of a data set built with keypoints


def parse_example(serialized: bytes) -> Mapping[str, Any]:
    """Return the features of a TFDS record by name, as `tf.train.Feature` messages."""
    from tensorflow_datasets.proto import tf_example_pb2

    # protobuf makes its classes at import, so pyright finds none.
    kind = tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue]
    return kind.FromString(serialized).features.feature


def parse_record(serialized: bytes) -> Record:
    """Parse a record a third faster than TFDS, which passes each frame through an object array."""
    feature = parse_example(serialized)

    def text(key: str) -> str:
        return feature[key].bytes_list.value[0].decode("utf-8", "replace")

    def number(key: str) -> float:
        return feature[key].float_list.value[0]

    record = Record(
        id=text("id"),
        video=list(feature["video"].bytes_list.value),
        fps=number("fps"),
        text=text("text"),
        gloss=text("gloss"),
        signer=text("signer"),
        video_id=text("video_id"),
        start=number("start"),
        end=number("end"),
    )
    if "keypoints/value" in feature:
        shape = feature["keypoints/shape"].int64_list.value
        stored = np.frombuffer(feature["keypoints/value"].bytes_list.value[0], "<f2")
        record["keypoints"] = stored.reshape(shape)
    return record


def index_entry(record: Record) -> IndexEntry:
    """Return the description of a clip without its frames."""
    return IndexEntry(
        id=record["id"],
        num_frames=len(record["video"]),
        fps=record["fps"],
        text=record["text"],
        gloss=record["gloss"],
        signer=record["signer"],
        video_id=record["video_id"],
        keypoints=known_share(record["keypoints"]) if "keypoints" in record else None,
    )


def stored_values(entry: IndexEntry) -> tuple[object, ...]:
    """Return the values of an entry, its rate rounded to float32 as in a record."""
    keypoints = () if entry.keypoints is None else (entry.keypoints,)
    return (
        entry.id,
        entry.num_frames,
        float(np.float32(entry.fps)),
        entry.text,
        entry.gloss,
        entry.signer,
        entry.video_id,
        *keypoints,
    )
