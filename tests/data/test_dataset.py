"""Tests of reading a built data set: records, index, identity, and errors that name the remedy."""

import dataclasses
import json
import pickle
import shutil
import subprocess

import numpy as np
import pytest

from signvit_jax.data import dataset, schema
from signvit_jax.data.dataset import DatasetError, open_dataset
from signvit_jax.data.keypoints import DRAWN
from tests.helpers import toy_dataset
from tests.helpers.toy_dataset import record

RECORDS = [
    record(f"clip-{i}", num_frames=i + 1, text=f"text {i} – हाँ", fps=12.5, gloss=f"G{i}")
    for i in range(7)
]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    toy_dataset.write(folder, train=RECORDS, test=RECORDS[:2])
    return folder


@pytest.fixture
def data_dir(built, tmp_path):
    return shutil.copytree(built, tmp_path / "data")


def test_an_unreadable_folder_is_a_dataset_error(built, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.iterdir", refused)
    with pytest.raises(
        DatasetError, match=r"config\.data\.data_dir\) cannot be read: .*Permission denied"
    ):
        open_dataset(built, "toy")


def test_records_are_read_as_they_were_written(built):
    split = open_dataset(built, "toy").split("train")
    assert len(split) == len(RECORDS)
    assert [split[i] for i in range(len(split))] == RECORDS


def test_the_index_is_created_from_the_records_and_saved(data_dir):
    split = open_dataset(data_dir, "toy").split("train")
    expected = [
        schema.IndexEntry(
            r["id"], len(r["video"]), r["fps"], r["text"], r["gloss"], r["signer"], r["video_id"]
        )
        for r in RECORDS
    ]
    assert split.index == expected
    assert schema.read_index(data_dir / "toy/1.0.0", "train") == expected


def test_an_index_is_used_if_it_agrees_with_the_records(data_dir):
    folder = data_dir / "toy/1.0.0"
    true_index = open_dataset(data_dir, "toy").split("train").index
    other_index = [
        dataclasses.replace(entry, signer="marked" if i == 1 else "")
        for i, entry in enumerate(true_index)
    ]
    schema.write_index(folder, "train", other_index)
    assert open_dataset(data_dir, "toy").split("train").index == other_index
    other_text = [dataclasses.replace(true_index[0], text="other"), *true_index[1:]]
    for stale in (other_index[:-1], [other_index[1], *other_index[1:]], [], other_text):
        schema.write_index(folder, "train", stale)
        assert open_dataset(data_dir, "toy").split("train").index == true_index


@pytest.mark.parametrize("earlier_release", [False, True])
@pytest.mark.parametrize(
    ("old", "new"),
    [(b"text 2", b"text 9"), (b'"num_frames": 3', b'"num_frames": 4'), (b"G4", b"G5")],
)
def test_an_altered_index_is_replaced(data_dir, caplog, earlier_release, old, new):
    folder = data_dir / "toy/1.0.0"
    true_index = open_dataset(data_dir, "toy").split("train").index
    path = schema.index_path(folder, "train")
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    if earlier_release:
        (folder / "train.index.sha256").unlink(missing_ok=True)
    assert open_dataset(data_dir, "toy").split("train").index == true_index
    assert "train.index.jsonl" in caplog.text
    assert schema.read_index(folder, "train") == true_index  # replaced


def test_an_index_without_digest_is_compared_and_gets_one(data_dir, monkeypatch, caplog):
    caplog.set_level("INFO")
    folder = data_dir / "toy/1.0.0"
    true_index = open_dataset(data_dir, "toy").split("train").index
    digest = folder / "train.index.sha256"
    digest.unlink()
    monkeypatch.setattr(dataset, "_NUM_COMPARED_WITHOUT_DIGEST", 4)
    records_read = []
    read_record = dataset.Split.__getitem__

    def count_read(split, i):
        records_read.append(i)
        return read_record(split, i)

    monkeypatch.setattr(dataset.Split, "__getitem__", count_read)
    assert open_dataset(data_dir, "toy").split("train").index == true_index
    assert sorted(records_read) == [0, 2, 4, 6]
    assert "4 of its 7 entries were compared with the records" in caplog.text
    check = ["sha256sum", "--check", "--status", digest.name]
    assert subprocess.run(check, cwd=folder, check=False).returncode == 0
    records_read.clear()
    assert open_dataset(data_dir, "toy").split("train").index == true_index
    assert sorted(records_read) == [0, 3, 6]


def test_an_index_without_digest_in_a_read_only_folder_is_used(data_dir, monkeypatch):
    true_index = open_dataset(data_dir, "toy").split("train").index
    (data_dir / "toy/1.0.0/train.index.sha256").unlink()

    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(schema, "write_index_digest", refuse)
    assert open_dataset(data_dir, "toy").split("train").index == true_index


@pytest.mark.parametrize("damage", [b"not json\n", b'{"id": 3}\n', b"\xff\xfe\x00", b'["a"]\n'])
def test_a_damaged_index_is_recreated(data_dir, damage):
    (data_dir / "toy/1.0.0/train.index.jsonl").write_bytes(damage)
    assert len(open_dataset(data_dir, "toy").split("train").index) == len(RECORDS)


def test_the_index_stays_in_memory_for_a_read_only_folder(data_dir, monkeypatch):
    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(schema, "write_index", refuse)
    assert len(open_dataset(data_dir, "toy").split("train").index) == len(RECORDS)


def test_fingerprint_changes_with_clips_and_texts(tmp_path):
    def fingerprint(name: str, records) -> str:
        toy_dataset.write(tmp_path / name, train=records)
        return open_dataset(tmp_path / name, "toy").split("train").fingerprint

    first = fingerprint("a", RECORDS)
    assert first == fingerprint("b", RECORDS) and len(first) == 16
    assert first != fingerprint("c", RECORDS[:-1])
    assert first != fingerprint("d", [*RECORDS[:-1], {**RECORDS[-1], "text": "other"}])


def test_identity_changes_with_frames_splits_and_options(tmp_path, data_dir):
    def identity(name: str, train=RECORDS, **others) -> dict:
        toy_dataset.write(tmp_path / name, train=train, **others)
        return open_dataset(tmp_path / name, "toy").identity()

    first = identity("a", test=RECORDS[:2])
    assert json.loads(json.dumps(first)) == first == identity("b", test=RECORDS[:2])
    assert first["splits"].keys() == {"train", "test"} and first["splits"]["train"]["clips"] == 7
    recompressed = [
        RECORDS[0] | {"video": [toy_dataset.jpeg(np.full((16, 16, 3), 8, np.uint8), quality=20)]},
        *RECORDS[1:],
    ]
    for other in (
        identity("c", recompressed, test=RECORDS[:2]),
        identity("d", test=[RECORDS[1], RECORDS[0]]),
        identity("e", validation=RECORDS[:2]),
        identity("f", [RECORDS[0] | {"signer": "Ann"}, *RECORDS[1:]], test=RECORDS[:2]),
    ):
        assert other != first
    (data_dir / "toy/1.0.0/build_report.json").write_text(
        json.dumps({"settings": {"jpeg_quality": 20}})
    )
    assert open_dataset(data_dir, "toy").identity() == first | {"settings": {"jpeg_quality": 20}}
    for damaged in ("{", "[]", '{"settings": 3}'):
        (data_dir / "toy/1.0.0/build_report.json").write_text(damaged)
        assert open_dataset(data_dir, "toy").identity() == first


def test_identity_does_not_depend_on_where_the_index_is_from(tmp_path):
    """The index of a builder has frame rates in double precision, a record in single precision."""
    folder = toy_dataset.write(tmp_path / "a", train=[record("a", 3, fps=24000 / 1001)])
    assert open_dataset(tmp_path / "a", "toy").split("train").index[0].fps != 24000 / 1001
    first = open_dataset(tmp_path / "a", "toy").identity()
    schema.write_index(
        folder, "train", [schema.IndexEntry("a", 3, 24000 / 1001, "hello there", video_id="a")]
    )
    split = open_dataset(tmp_path / "a", "toy").split("train")
    assert split.index[0].fps == 24000 / 1001
    assert open_dataset(tmp_path / "a", "toy").identity() == first


def test_a_pickled_split_has_no_index(built):
    split = open_dataset(built, "toy").split("train")
    assert split.index
    pickled = pickle.dumps(split)
    assert b"clip-3" not in pickled
    assert pickle.loads(pickled)[3] == RECORDS[3]


def test_the_newest_version_is_opened(data_dir):
    shutil.copytree(data_dir / "toy/1.0.0", data_dir / "toy/0.9.0")
    assert open_dataset(data_dir, "toy").folder.name == "1.0.0"
    assert open_dataset(data_dir, "toy/0.9.0").folder.name == "0.9.0"


def test_the_error_of_a_missing_data_set_says_how_to_build_it(data_dir):
    with pytest.raises(
        DatasetError,
        match=r"'isign' is not built.* there are toy .*build isign --data_dir=",
    ):
        open_dataset(data_dir, "isign")
    with pytest.raises(DatasetError, match=r"no folder .*data\.data_dir.*build toy"):
        open_dataset(data_dir / "nowhere", "toy")


def test_an_interrupted_build_is_reported_as_such(tmp_path):
    (tmp_path / "toy/incomplete.ABC_1.0.0").mkdir(parents=True)
    with pytest.raises(DatasetError, match="is incomplete: its build was interrupted"):
        open_dataset(tmp_path, "toy")


def test_several_configs_of_a_data_set_are_listed(data_dir):
    shutil.copytree(data_dir / "toy/1.0.0", data_dir / "many/small/1.0.0")
    shutil.copytree(data_dir / "toy/1.0.0", data_dir / "many/large/1.0.0")
    with pytest.raises(DatasetError, match="several configs: many/large, many/small"):
        open_dataset(data_dir, "many")


def test_the_error_of_a_missing_split_lists_the_others(built):
    with pytest.raises(DatasetError, match=r"no split 'dev'.*there are test, train"):
        open_dataset(built, "toy").split("dev")


def test_a_missing_shard_is_named(data_dir):
    (shard,) = (data_dir / "toy/1.0.0").glob("toy-train*")
    shard.unlink()
    with pytest.raises(
        DatasetError, match=r"lacks 1 of its files.*toy-train.*build the data set again"
    ):
        open_dataset(data_dir, "toy").split("train")


def test_the_error_of_damaged_metadata_names_the_folder(data_dir):
    (data_dir / "toy/1.0.0/dataset_info.json").write_text("{")
    with pytest.raises(DatasetError, match=r"toy/1\.0\.0 cannot be read as a TFDS data set"):
        open_dataset(data_dir, "toy")


def test_the_error_of_another_schema_names_what_is_missing(data_dir):
    path = data_dir / "toy/1.0.0/features.json"
    features = json.loads(path.read_text())
    del features["featuresDict"]["features"]["gloss"]
    path.write_text(json.dumps(features))
    with pytest.raises(DatasetError, match="has no gloss; a sign data set has end, fps, gloss, id"):
        open_dataset(data_dir, "toy")


def test_a_damaged_record_is_named(data_dir):
    open_dataset(data_dir, "toy").split("train").index  # noqa: B018 (creates the index)
    (shard,) = (data_dir / "toy/1.0.0").glob("toy-train*")
    size = shard.stat().st_size
    with shard.open("r+b") as file:  # the first record's chunk follows the file header
        file.seek(size // 100)
        file.write(bytes(range(1, 201)))
    split = open_dataset(data_dir, "toy").split("train")
    with pytest.raises(DatasetError, match=r"record \d of split 'train' in .* cannot be read"):
        for i in range(len(split)):
            split[i]


@pytest.mark.parametrize("i", [-1, 7])
def test_a_record_number_out_of_range_is_an_index_error(built, i):
    with pytest.raises(IndexError, match=f"record {i} of split 'train', which has 7"):
        open_dataset(built, "toy").split("train")[i]


def test_a_subset_is_evenly_spaced_over_the_split(built, caplog):
    split = open_dataset(built, "toy").split("train")
    subset = pickle.loads(pickle.dumps(split.spread(3)))
    assert (
        [record["id"] for record in subset]
        == ["clip-0", "clip-2", "clip-4"]
        == [entry.id for entry in split.spread(3).index]
    )
    assert (subset.name, len(subset)) == ("train", 3)
    assert len(subset.index) == 3
    assert len(open_dataset(built, "toy").split("train").index) == 7
    assert not caplog.records  # the index file is still that of the complete split
    assert split.spread(7) is split and split.spread(99) is split


@pytest.fixture
def keypoint_data(tmp_path):
    points = np.zeros((4, 11, 3), np.float16)
    points[:3] = np.random.default_rng(0).uniform(0.1, 1, (3, 11, 3))
    records = [record("a", 4) | {"keypoints": points}, record("b", 4) | {"keypoints": 0 * points}]
    toy_dataset.write(tmp_path, DRAWN, train=records)
    return tmp_path, points


def test_keypoints_are_read_as_they_were_written(keypoint_data):
    folder, points = keypoint_data
    dataset = open_dataset(folder, "toy")
    assert dataset.keypoint_layout == dataset.split("train").keypoint_layout == DRAWN
    split = pickle.loads(pickle.dumps(dataset.split("train")))
    assert split.keypoint_layout == DRAWN and split.spread(1).keypoint_layout == DRAWN
    stored = split[0]["keypoints"]
    assert stored.dtype == np.float16 and np.array_equal(stored, points)


def test_the_index_says_in_how_many_frames_points_are_known(keypoint_data):
    folder, _ = keypoint_data
    split = open_dataset(folder, "toy").split("train")
    assert [entry.keypoints for entry in split.index] == [0.75, 0.0]
    reopened = open_dataset(folder, "toy").split("train")
    assert schema.read_index(reopened.folder, "train") == reopened.index == split.index
    assert reopened.digest == split.digest


def test_a_data_set_without_keypoints_has_the_earlier_index(built):
    dataset = open_dataset(built, "toy")
    split = dataset.split("train")
    assert dataset.keypoint_layout is split.keypoint_layout is None
    assert "keypoints" not in split[0] and split.index[0].keypoints is None
    line = json.loads(schema.index_path(split.folder, "train").read_text().splitlines()[0])
    assert list(line) == ["id", "num_frames", "fps", "text", "gloss", "signer", "video_id"]


def test_keypoints_without_their_layout_are_refused(keypoint_data):
    folder, _ = keypoint_data
    (folder / "toy/1.0.0/metadata.json").write_text('{"keypoints": 3}')
    with pytest.raises(DatasetError, match=r"metadata\.json does not say which keypoints"):
        open_dataset(folder, "toy")
