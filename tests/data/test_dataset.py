import json
import pickle
import shutil

import pytest
import toy_dataset
from toy_dataset import record

from signvit_jax.data import schema
from signvit_jax.data.dataset import DatasetError, open_dataset

RECORDS = [record(f"clip-{i}", num_frames=i + 1, text=f"text {i} – हाँ", fps=12.5, gloss=f"G{i}") for i in range(7)]


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
    with pytest.raises(DatasetError, match=r"config\.data\.data_dir\) cannot be read: .*Permission denied"):
        open_dataset(built, "toy")


def test_records_come_back_as_they_were_written(built):
    split = open_dataset(built, "toy").split("train")
    assert len(split) == len(RECORDS)
    assert [split[i] for i in range(len(split))] == RECORDS


def test_index_is_made_from_the_records_once_and_kept(data_dir):
    split = open_dataset(data_dir, "toy").split("train")
    expected = [schema.IndexEntry(r["id"], len(r["video"]), r["fps"], r["text"], r["gloss"], r["signer"], r["video_id"]) for r in RECORDS]
    assert split.index == expected
    assert schema.read_index(data_dir / "toy/1.0.0", "train") == expected


def test_index_beside_the_records_is_believed_if_it_agrees_with_them(data_dir):
    folder = data_dir / "toy/1.0.0"
    true_index = open_dataset(data_dir, "toy").split("train").index
    marked = [schema.IndexEntry(**{**vars(entry), "signer": "marked"}) for entry in true_index]
    schema.write_index(folder, "train", marked)
    assert open_dataset(data_dir, "toy").split("train").index == marked
    for stale in (marked[:-1], [marked[1], *marked[1:]], []):
        schema.write_index(folder, "train", stale)
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
    with pytest.raises(DatasetError, match=r"'isign' is not built.* there are toy .*python -m tfds_builders\.build isign --data_dir="):
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
    with pytest.raises(DatasetError, match=r"lacks 1 of its files.*toy-train.*build the data set again"):
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
    assert [record["id"] for record in some] == ["clip-0", "clip-2", "clip-4"] == [entry.id for entry in split.spread(3).index]
    assert (some.name, len(some)) == ("train", 3)
    assert split.spread(7) is split and split.spread(99) is split
