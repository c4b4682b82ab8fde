import dataclasses
import json
import pickle
import shutil
import subprocess

import numpy as np
import pytest

from signvit_jax.data import dataset, schema
from signvit_jax.data.dataset import DatasetError, open_dataset
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


def test_a_folder_that_may_not_be_read_is_an_error_of_ours(built, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.iterdir", refused)
    with pytest.raises(
        DatasetError, match=r"config\.data\.data_dir\) cannot be read: .*Permission denied"
    ):
        open_dataset(built, "toy")


def test_records_come_back_as_they_were_written(built):
    split = open_dataset(built, "toy").split("train")
    assert len(split) == len(RECORDS)
    assert [split[i] for i in range(len(split))] == RECORDS


def test_index_is_made_from_the_records_once_and_kept(data_dir):
    split = open_dataset(data_dir, "toy").split("train")
    expected = [
        schema.IndexEntry(
            r["id"], len(r["video"]), r["fps"], r["text"], r["gloss"], r["signer"], r["video_id"]
        )
        for r in RECORDS
    ]
    assert split.index == expected
    assert schema.read_index(data_dir / "toy/1.0.0", "train") == expected


def test_index_beside_the_records_is_believed_if_it_agrees_with_them(data_dir):
    folder = data_dir / "toy/1.0.0"
    true_index = open_dataset(data_dir, "toy").split("train").index
    marked = [
        dataclasses.replace(entry, signer="marked" if i == 1 else "")
        for i, entry in enumerate(true_index)
    ]
    schema.write_index(folder, "train", marked)
    assert open_dataset(data_dir, "toy").split("train").index == marked
    others = [dataclasses.replace(true_index[0], text="other"), *true_index[1:]]
    for stale in (marked[:-1], [marked[1], *marked[1:]], [], others):
        schema.write_index(folder, "train", stale)
        assert open_dataset(data_dir, "toy").split("train").index == true_index


@pytest.mark.parametrize("earlier_release", [False, True])
@pytest.mark.parametrize(
    ("was", "is_now"),
    [(b"text 2", b"text 9"), (b'"num_frames": 3', b'"num_frames": 4'), (b"G4", b"G5")],
)
def test_an_index_that_was_altered_is_not_believed(data_dir, caplog, earlier_release, was, is_now):
    folder = data_dir / "toy/1.0.0"
    true_index = open_dataset(data_dir, "toy").split("train").index
    path = schema.index_path(folder, "train")
    path.write_bytes(path.read_bytes().replace(was, is_now, 1))
    if earlier_release:
        (folder / "train.index.sha256").unlink(missing_ok=True)
    assert open_dataset(data_dir, "toy").split("train").index == true_index
    assert "train.index.jsonl" in caplog.text
    assert schema.read_index(folder, "train") == true_index  # and it is right again


def test_an_index_of_an_earlier_release_is_held_against_a_thousand_records_and_gets_its_digest(
    data_dir, monkeypatch, caplog
):
    caplog.set_level("INFO")
    folder = data_dir / "toy/1.0.0"
    true_index = open_dataset(data_dir, "toy").split("train").index
    digest = folder / "train.index.sha256"
    digest.unlink()
    monkeypatch.setattr(dataset, "_COMPARED_WITHOUT_DIGEST", 4)
    read = []
    monkeypatch.setattr(
        dataset.Split,
        "__getitem__",
        lambda split, i, get=dataset.Split.__getitem__: read.append(i) or get(split, i),
    )
    assert open_dataset(data_dir, "toy").split("train").index == true_index
    assert sorted(read) == [0, 2, 4, 6]
    assert "4 of its 7 entries were held against the records" in caplog.text
    assert (
        subprocess.run(
            ["sha256sum", "--check", "--status", digest.name], cwd=folder, check=False
        ).returncode
        == 0
    )
    read.clear()
    assert open_dataset(data_dir, "toy").split("train").index == true_index
    assert sorted(read) == [0, 3, 6]


def test_an_index_of_an_earlier_release_in_a_folder_of_somebody_else_is_read(data_dir, monkeypatch):
    true_index = open_dataset(data_dir, "toy").split("train").index
    (data_dir / "toy/1.0.0/train.index.sha256").unlink()

    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(schema, "write_index_digest", refuse)
    assert open_dataset(data_dir, "toy").split("train").index == true_index


@pytest.mark.parametrize("damage", [b"not json\n", b'{"id": 3}\n', b"\xff\xfe\x00", b'["a"]\n'])
def test_damaged_index_is_made_anew(data_dir, damage):
    (data_dir / "toy/1.0.0/train.index.jsonl").write_bytes(damage)
    assert len(open_dataset(data_dir, "toy").split("train").index) == len(RECORDS)


def test_index_of_a_folder_that_cannot_be_written_stays_in_memory(data_dir, monkeypatch):
    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(schema, "write_index", refuse)
    assert len(open_dataset(data_dir, "toy").split("train").index) == len(RECORDS)


def test_fingerprint_changes_with_what_a_model_would_learn(tmp_path):
    def fingerprint(name: str, records) -> str:
        toy_dataset.write(tmp_path / name, train=records)
        return open_dataset(tmp_path / name, "toy").split("train").fingerprint

    first = fingerprint("a", RECORDS)
    assert first == fingerprint("b", RECORDS) and len(first) == 16
    assert first != fingerprint("c", RECORDS[:-1])
    assert first != fingerprint("d", [*RECORDS[:-1], {**RECORDS[-1], "text": "other"}])


def test_the_identity_changes_with_the_frames_with_any_split_and_with_the_options(
    tmp_path, data_dir
):
    def identity(name: str, train=RECORDS, **others) -> dict:
        toy_dataset.write(tmp_path / name, train=train, **others)
        return open_dataset(tmp_path / name, "toy").identity()

    first = identity("a", test=RECORDS[:2])
    assert json.loads(json.dumps(first)) == first == identity("b", test=RECORDS[:2])
    assert first["splits"].keys() == {"train", "test"} and first["splits"]["train"]["clips"] == 7
    softer = [
        RECORDS[0] | {"video": [toy_dataset.jpeg(np.full((16, 16, 3), 8, np.uint8), quality=20)]},
        *RECORDS[1:],
    ]
    for other in (
        identity("c", softer, test=RECORDS[:2]),
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


def test_the_identity_is_the_same_whether_the_index_was_there_or_came_from_the_records(tmp_path):
    """A builder writes rates in double precision, a record has them in single."""
    folder = toy_dataset.write(tmp_path / "a", train=[record("a", 3, fps=24000 / 1001)])
    assert open_dataset(tmp_path / "a", "toy").split("train").index[0].fps != 24000 / 1001
    first = open_dataset(tmp_path / "a", "toy").identity()
    schema.write_index(
        folder, "train", [schema.IndexEntry("a", 3, 24000 / 1001, "hello there", video_id="a")]
    )
    split = open_dataset(tmp_path / "a", "toy").split("train")
    assert split.index[0].fps == 24000 / 1001
    assert open_dataset(tmp_path / "a", "toy").identity() == first


def test_a_split_travels_to_another_process_without_its_index(built):
    split = open_dataset(built, "toy").split("train")
    assert split.index
    small = pickle.dumps(split)
    assert b"clip-3" not in small
    assert pickle.loads(small)[3] == RECORDS[3]


def test_the_newest_version_is_opened(data_dir):
    shutil.copytree(data_dir / "toy/1.0.0", data_dir / "toy/0.9.0")
    assert open_dataset(data_dir, "toy").folder.name == "1.0.0"
    assert open_dataset(data_dir, "toy/0.9.0").folder.name == "0.9.0"


def test_a_missing_data_set_is_told_with_what_is_there_and_how_to_build_it(data_dir):
    with pytest.raises(
        DatasetError,
        match=r"'isign' is not built.* there are toy .*python -m tfds_builders\.build isign --data_dir=",
    ):
        open_dataset(data_dir, "isign")
    with pytest.raises(DatasetError, match=r"no folder .*data\.data_dir.*tfds_builders\.build toy"):
        open_dataset(data_dir / "nowhere", "toy")


def test_a_build_that_was_cut_off_is_told_as_such(tmp_path):
    (tmp_path / "toy/incomplete.ABC_1.0.0").mkdir(parents=True)
    with pytest.raises(DatasetError, match="not whole: its build was cut off"):
        open_dataset(tmp_path, "toy")


def test_several_kinds_of_a_data_set_are_listed(data_dir):
    shutil.copytree(data_dir / "toy/1.0.0", data_dir / "many/small/1.0.0")
    shutil.copytree(data_dir / "toy/1.0.0", data_dir / "many/large/1.0.0")
    with pytest.raises(DatasetError, match="several kinds: many/large, many/small"):
        open_dataset(data_dir, "many")


def test_a_missing_split_is_told_with_those_that_are_there(built):
    with pytest.raises(DatasetError, match=r"no split 'dev'.*there are test, train"):
        open_dataset(built, "toy").split("dev")


def test_a_missing_shard_is_named(data_dir):
    (shard,) = (data_dir / "toy/1.0.0").glob("toy-train*")
    shard.unlink()
    with pytest.raises(
        DatasetError, match=r"lacks 1 of its files.*toy-train.*build the data set again"
    ):
        open_dataset(data_dir, "toy").split("train")


def test_damaged_metadata_is_told_with_its_folder(data_dir):
    (data_dir / "toy/1.0.0/dataset_info.json").write_text("{")
    with pytest.raises(DatasetError, match=r"toy/1\.0\.0 cannot be read as a TFDS data set"):
        open_dataset(data_dir, "toy")


def test_a_data_set_of_another_schema_is_told_with_what_it_lacks(data_dir):
    path = data_dir / "toy/1.0.0/features.json"
    features = json.loads(path.read_text())
    del features["featuresDict"]["features"]["gloss"]
    path.write_text(json.dumps(features))
    with pytest.raises(DatasetError, match="has no gloss; a sign data set has end, fps, gloss, id"):
        open_dataset(data_dir, "toy")


def test_a_damaged_record_is_named(data_dir):
    open_dataset(data_dir, "toy").split("train").index  # noqa: B018 (makes the index)
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
def test_a_record_number_outside_the_split_is_an_index_error(built, i):
    with pytest.raises(IndexError, match=f"record {i} of split 'train', which has 7"):
        open_dataset(built, "toy").split("train")[i]


def test_some_of_the_clips_are_spread_over_the_split(built):
    split = open_dataset(built, "toy").split("train")
    some = pickle.loads(pickle.dumps(split.spread(3)))
    assert (
        [record["id"] for record in some]
        == ["clip-0", "clip-2", "clip-4"]
        == [entry.id for entry in split.spread(3).index]
    )
    assert (some.name, len(some)) == ("train", 3)
    assert split.spread(7) is split and split.spread(99) is split
