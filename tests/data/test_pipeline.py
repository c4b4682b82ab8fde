"""Tests of batches: their arrays, their order, resuming, and errors of the data."""

import copy
import logging
import os
import signal

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config, from_mapping
from signvit_jax.data.dataset import DatasetError, Split, open_dataset
from signvit_jax.data.frame_sampling import clip_length
from signvit_jax.data.keypoints import KeypointLayout
from signvit_jax.data.pipeline import BatchIterator, make_batches
from signvit_jax.data.token_table import padded_gloss_length, padded_text_length
from signvit_jax.text.tokenizer import learn, learn_gloss_vocabulary
from tests.helpers import toy_dataset
from tests.helpers.toy_dataset import gray_jpeg, jpeg, record

# Stored frames of the clips at 25 per second. Sampling at 12.5 per second takes 1 to 15 of them.
LENGTHS = [1, 3, 4, 5, 7, 8, 9, 12, 15, 16, 30, 2, 6]
RATE_SAMPLING = {
    "data": {
        "sampling": "rate",
        "num_frames": 8,
        "frame_buckets": (2, 4, 8),
        "image_size": 16,
        "num_threads": 2,
        "prefetch_batches": 2,
    }
}
AUGMENTED = {
    "rotate": 10.0,
    "brightness": 0.3,
    "speed": 0.2,
    "frame_jitter": 0.3,
    "frame_drop": 0.2,
}


def sampled_length(clip: int) -> int:
    """Return how many frames of a clip evaluation samples: every second frame, at most 8."""
    return min((LENGTHS[clip] + 1) // 2, 8)


def config_with(**data) -> Config:
    """Return a config with rate sampling and these data keys."""
    return from_mapping(
        {"model": {"encoder": {"patch_size": 16}}, "data": {**RATE_SAMPLING["data"], **data}}
    )


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> Split:
    folder = tmp_path_factory.mktemp("toy")
    texts = ["hello", "good morning to you all", "it's late?"]
    # The gray level of the frames identifies the clip.
    records = [
        record(
            f"clip-{i}",
            0,
            text=texts[i % 3],
            gloss="A B C"[: i % 6],
            frames=[gray_jpeg(10 * i + 20)] * length,
        )
        for i, length in enumerate(LENGTHS)
    ]
    toy_dataset.write(folder, train=records)
    return open_dataset(folder, "toy").split("train")


@pytest.fixture(scope="module")
def tokenizer(split):
    return learn([entry.text for entry in split.index], Config().tokenizer)


def batches(
    split, tokenizer, config=None, *, training=True, batch_size=3, num_epochs=1, **options
) -> BatchIterator:
    return make_batches(
        split,
        tokenizer,
        config or config_with(),
        batch_size=batch_size,
        training=training,
        num_epochs=num_epochs,
        text_length=16,
        **options,
    )


def assert_equal_batches(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("process_count", [1, 2, 3])
def test_each_epoch_has_every_clip_once_over_all_processes(
    split, tokenizer, process_count, training
):
    per_process = [
        list(
            batches(
                split,
                tokenizer,
                training=training,
                batch_size=6,
                num_epochs=2,
                process_index=p,
                process_count=process_count,
            )
        )
        for p in range(process_count)
    ]
    steps = len(per_process[0]) // 2
    for epoch in (0, 1) if training else (0,):
        seen = np.concatenate(
            [
                batch["index"]
                for process_batches in per_process
                for batch in process_batches[epoch * steps : (epoch + 1) * steps]
            ]
        )
        assert sorted(seen[seen >= 0]) == list(range(len(LENGTHS)))


def test_sentences_are_in_training_batches_of_a_gloss_memory_and_depend_on_the_step(
    split, tokenizer
):
    reads = {
        "model": {
            "encoder": {"patch_size": 16},
            "ctc": {"target": "gloss"},
            "decoder": {"gloss_memory": True},
        },
        "training": {"gloss_sentences": 2},
        **RATE_SAMPLING,
    }
    glosses = {
        "gloss_tokenizer": learn_gloss_vocabulary(entry.gloss for entry in split.index),
        "gloss_length": 8,
    }

    def names(config, *, training):
        batch = next(iter(batches(split, tokenizer, config, training=training, **glosses)))
        return {name for name in batch if name.startswith("sentence")}

    assert len(names(from_mapping(reads), training=True)) == 3
    assert not names(from_mapping(reads), training=False)
    assert not names(config_with(), training=True)
    run = batches(split, tokenizer, from_mapping(reads), num_epochs=2, **glosses)
    complete = list(run)
    resumed = batches(split, tokenizer, from_mapping(reads), num_epochs=2, **glosses)
    resumed.set_state(resumed.state_at(3))
    assert_equal_batches(list(resumed), complete[3:])
    assert complete[0]["sentence_tokens"].shape == (3, 2, 16)


def test_all_processes_together_have_the_rows_of_one_process(split, tokenizer):
    one_process = list(batches(split, tokenizer, batch_size=6))
    parts = [
        list(batches(split, tokenizer, batch_size=6, process_index=p, process_count=2))
        for p in range(2)
    ]
    assert_equal_batches(
        [{key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*parts, strict=True)],
        one_process,
    )


def test_batches_hold_the_documented_arrays(split, tokenizer):
    config = config_with()
    for batch in batches(split, tokenizer, config, training=False):
        b, t = batch["video"].shape[:2]
        assert b == 3 and t in config.frame_buckets
        assert {key: (value.dtype.name, value.shape) for key, value in batch.items()} == {
            "video": ("uint8", (3, t, 16, 16, 3)),
            "frame_lengths": ("int32", (3,)),
            "tokens": ("int32", (3, 16)),
            "token_lengths": ("int32", (3,)),
            "weights": ("float32", (3,)),
            "index": ("int32", (3,)),
        }
        for row, example in enumerate(batch["index"]):
            length, tokens = batch["frame_lengths"][row], batch["tokens"][row]
            if example < 0:
                assert batch["weights"][row] == 0 and not batch["video"][row].any() and length == 1
                assert (
                    tokens[:3].tolist() == [tokenizer.bos_id, tokenizer.eos_id, 0]
                    and batch["token_lengths"][row] == 2
                )
                continue
            assert batch["weights"][row] == 1
            assert length == sampled_length(example)
            assert abs(batch["video"][row, :length].astype(int) - (10 * example + 20)).max() <= 2
            assert not batch["video"][row, length:].any()
            count = batch["token_lengths"][row]
            assert (
                tokens[0] == tokenizer.bos_id
                and tokens[count - 1] == tokenizer.eos_id
                and not tokens[count:].any()
            )
            assert tokenizer.decode(tokens) == tokenizer.normalize(split.index[example].text)


def test_only_leftover_clips_are_in_a_longer_bucket(split, tokenizer):
    config = config_with()
    moved = 0
    for batch in batches(split, tokenizer, config, batch_size=2):
        for example in batch["index"][batch["index"] >= 0]:
            shortest = min(b for b in config.frame_buckets if b >= sampled_length(example))
            moved += batch["video"].shape[1] != shortest
    assert moved <= 2


def test_even_sampling_gives_every_clip_the_same_length(split, tokenizer):
    config = config_with(sampling="even", frame_buckets=())
    for batch in batches(split, tokenizer, config, training=False):
        assert batch["video"].shape[1] == 8
        assert (batch["frame_lengths"][batch["weights"] > 0] == 8).all()


def test_epochs_are_shuffled_differently(split, tokenizer):
    iterator = batches(split, tokenizer, num_epochs=2)
    order = [batch["index"].tolist() for batch in iterator]
    assert order[: iterator.steps_per_epoch] != order[iterator.steps_per_epoch :]


def test_evaluation_is_in_the_order_of_the_split(split, tokenizer):
    evaluated = np.concatenate(
        [
            batch["index"]
            for batch in batches(split, tokenizer, config_with(frame_buckets=()), training=False)
        ]
    )
    assert evaluated[evaluated >= 0].tolist() == list(range(len(LENGTHS)))


@pytest.mark.parametrize(
    "changed",
    [{"num_threads": 1}, {"num_threads": 4, "prefetch_batches": 4}, {"num_workers": 2}],
    ids=str,
)
def test_batches_do_not_depend_on_threads_or_processes(split, tokenizer, changed):
    plain = list(batches(split, tokenizer, config_with(augment=AUGMENTED), num_epochs=2))
    other = batches(split, tokenizer, config_with(augment=AUGMENTED, **changed), num_epochs=2)
    assert_equal_batches(list(other), plain)
    other.close()


def test_another_seed_gives_other_batches(split, tokenizer):
    first, second = (list(batches(split, tokenizer, seed=seed)) for seed in (0, 1))
    assert [b["index"].tolist() for b in first] != [b["index"].tolist() for b in second]


def test_augmentation_varies_by_epoch_and_not_in_evaluation(split, tokenizer):
    config = config_with(augment={"brightness": 0.5}, frame_buckets=())

    def levels(training: bool) -> np.ndarray:
        """Return the gray level of the first frame of each clip in two epochs, (clips, 2)."""
        by_clip = {}
        for batch in batches(split, tokenizer, config, training=training, num_epochs=2):
            for row, example in enumerate(batch["index"]):
                by_clip.setdefault(int(example), []).append(int(batch["video"][row, 0, 0, 0, 0]))
        return np.array([by_clip[i] for i in range(len(LENGTHS))])

    augmented, plain = levels(training=True), levels(training=False)
    assert (augmented[:, 0] != augmented[:, 1]).mean() > 0.8
    assert (plain[:, 0] == plain[:, 1]).all()


def test_augmented_frames_of_a_static_clip_are_equal(tmp_path, tokenizer):
    image = jpeg(np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8))
    toy_dataset.write(tmp_path, train=[record(f"c{i}", 0, frames=[image] * 20) for i in range(4)])
    split = open_dataset(tmp_path, "toy").split("train")
    (batch,) = batches(split, tokenizer, config_with(augment=AUGMENTED), batch_size=4)
    for row, length in enumerate(batch["frame_lengths"]):
        assert length > 1 and (batch["video"][row, :length] == batch["video"][row, 0]).all()
    assert (batch["video"][0, 0] != batch["video"][1, 0]).any()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_resume_in_the_middle_of_epoch_2_is_exact(split, tokenizer, num_workers):
    config = config_with(augment=AUGMENTED, num_workers=num_workers)
    uninterrupted = list(batches(split, tokenizer, config_with(augment=AUGMENTED), num_epochs=3))
    iterator = batches(split, tokenizer, config, num_epochs=3)
    batches_before = [next(iterator) for _ in range(iterator.steps_per_epoch + 2)]
    state = iterator.get_state()
    iterator.close()
    resumed = batches(split, tokenizer, config, num_epochs=3)
    resumed.set_state(state)
    assert_equal_batches(batches_before + list(resumed), uninterrupted)


def test_every_saved_state_resumes_the_same_batches(split, tokenizer):
    config = config_with(augment=AUGMENTED)
    uninterrupted, states = [], []
    iterator = batches(split, tokenizer, config, num_epochs=2)
    for batch in iterator:
        uninterrupted.append(batch)
        states.append(iterator.get_state())
    for num_taken, state in reversed(list(enumerate(states, 1))):
        iterator.set_state(state)
        assert_equal_batches(list(iterator), uninterrupted[num_taken:])


def test_an_orbax_checkpoint_restores_the_position(split, tokenizer, tmp_path):
    uninterrupted = list(batches(split, tokenizer, num_epochs=3))
    iterator = batches(split, tokenizer, num_epochs=3)
    for _ in range(iterator.steps_per_epoch + 1):
        next(iterator)
    with ocp.CheckpointManager(
        tmp_path, options=ocp.CheckpointManagerOptions(max_to_keep=2)
    ) as manager:
        manager.save(
            iterator.next_step,
            args=ocp.args.Composite(
                data=grain.checkpoint.CheckpointSave(iterator), meta=ocp.args.JsonSave({"a": 1})
            ),
        )
        manager.wait_until_finished()
        resumed = batches(
            split, tokenizer, config_with(num_threads=1, prefetch_batches=1), num_epochs=3
        )
        manager.restore(
            manager.latest_step(),
            args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(resumed)),
        )
    assert resumed.next_step == iterator.next_step
    assert_equal_batches(list(resumed), uninterrupted[iterator.next_step :])


def test_more_epochs_extend_a_run(split, tokenizer):
    short = batches(split, tokenizer, num_epochs=1)
    uninterrupted = list(batches(split, tokenizer, num_epochs=2))
    list(short)
    longer = batches(split, tokenizer, num_epochs=2)
    longer.set_state(short.get_state())
    assert_equal_batches(list(longer), uninterrupted[short.steps_per_epoch :])


def test_the_position_of_an_iterator_with_other_options_is_refused(split, tokenizer):
    state = batches(split, tokenizer).get_state()
    with pytest.raises(DatasetError, match="batch_size: 3 then, 4 now"):
        batches(split, tokenizer, batch_size=4).set_state(state)
    with pytest.raises(DatasetError, match="seed: 0 then, 7 now"):
        batches(split, tokenizer, seed=7).set_state(state)
    with pytest.raises(DatasetError, match=r"step 6, but 1 epochs have 5 steps"):
        batches(split, tokenizer).set_state({**state, "next_step": 6})


def test_state_at_a_step_equals_the_state_after_the_steps(split, tokenizer):
    iterator = batches(split, tokenizer)
    next(iterator), next(iterator)
    assert iterator.get_state() == batches(split, tokenizer).state_at(2)


def test_the_number_of_steps_is_known(split, tokenizer):
    iterator = batches(split, tokenizer, num_epochs=2)
    assert iterator.steps_per_epoch == 5 and iterator.total_steps == 10
    assert len(list(iterator)) == 10


def test_an_iterator_stays_at_its_end(split, tokenizer):
    iterator = batches(split, tokenizer)
    list(iterator)
    assert list(iterator) == []


def test_the_config_bounds_the_prefetched_batches(split, tokenizer, monkeypatch):
    watched = copy.copy(split)  # threads of earlier tests may still read `split`
    iterator = batches(
        watched, tokenizer, config_with(prefetch_batches=1, num_threads=4), batch_size=1
    )
    records = []
    read = Split.__getitem__

    def record_read(self, i):
        if self is watched:
            records.append(i)
        return read(self, i)

    monkeypatch.setattr(Split, "__getitem__", record_read)
    next(iterator)
    iterator.start_prefetch()
    iterator.close()
    assert len(records) <= 2, records  # the returned batch and the prefetched one


def test_long_texts_are_truncated_before_eos_with_a_warning(split, tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        iterator = make_batches(
            split, tokenizer, config_with(), batch_size=13, training=False, text_length=6
        )
    long = sum(len(tokenizer.encode(entry.text)) > 4 for entry in split.index)
    assert long > 0
    assert f"{long} of 13 texts of split 'train' have more than 6 tokens" in caplog.text
    batch = next(iterator)
    assert batch["tokens"].shape == (13, 6)
    assert (batch["tokens"][np.arange(13), batch["token_lengths"] - 1] == tokenizer.eos_id).all()


def test_padded_length_is_a_multiple_of_8_within_the_decoder(split, tokenizer):
    longest = max(len(tokenizer.encode(entry.text)) + 2 for entry in split.index)
    assert padded_text_length(split, tokenizer, 100) == -(-longest // 8) * 8
    assert padded_text_length(split, tokenizer, 5) == 5


def test_glosses_have_no_special_tokens_and_may_be_empty(split, tokenizer):
    glosses = learn_gloss_vocabulary([entry.gloss for entry in split.index])
    length = padded_gloss_length(split, glosses)
    for batch in batches(split, tokenizer, gloss_tokenizer=glosses, gloss_length=length):
        assert (
            batch["gloss_tokens"].shape == (3, length)
            and batch["gloss_tokens"].dtype == batch["gloss_lengths"].dtype == np.int32
        )
        for row, example in enumerate(batch["index"]):
            expected = glosses.encode(split.index[example].gloss) if example >= 0 else []
            assert batch["gloss_tokens"][row].tolist() == expected + [0] * (length - len(expected))
            assert batch["gloss_lengths"][row] == len(expected)


def test_an_indivisible_batch_size_is_a_config_error(split, tokenizer):
    with pytest.raises(
        ConfigError, match="batch_size is 3; allowed: a multiple of the 2 processes"
    ):
        batches(split, tokenizer, process_count=2)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_error_of_an_unreadable_frame_names_the_clip(tmp_path, tokenizer, num_workers):
    good = gray_jpeg(9)
    toy_dataset.write(
        tmp_path, train=[record("fine", 4), record("damaged", 0, frames=[good, good[:60], good])]
    )
    split = open_dataset(tmp_path, "toy").split("train")
    config = config_with(sampling="even", frame_buckets=(), num_workers=num_workers)
    with pytest.raises(
        DatasetError, match=r"clip 'damaged' \(record 1 of split 'train' in .*frame \d of 8: not a"
    ):
        list(batches(split, tokenizer, config, batch_size=2))


def test_clips_without_frames_are_refused_at_the_start(tmp_path, tokenizer):
    toy_dataset.write(tmp_path, train=[record("fine", 4), record("empty", 0, frames=[])])
    with pytest.raises(DatasetError, match="1 clips have no frame, the first 'empty'"):
        batches(open_dataset(tmp_path, "toy").split("train"), tokenizer)


def test_a_split_without_clips_is_refused(split, tokenizer):
    with pytest.raises(DatasetError, match=r"split 'test' .* has no clip"):
        batches(Split(split.folder, "test", []), tokenizer)


def test_a_killed_reading_process_is_an_error_not_a_hang(split, tokenizer):
    import multiprocessing

    iterator = batches(
        split, tokenizer, config_with(num_workers=1, prefetch_batches=1), num_epochs=1000
    )
    next(iterator)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(
        DatasetError, match=r"reading process ended.*exit code -9.*data\.num_workers=0"
    ):
        for _ in range(20):
            next(iterator)
    iterator.close()
    assert not multiprocessing.active_children()


def test_a_closed_iterator_raises(split, tokenizer):
    iterator = batches(split, tokenizer)
    next(iterator)
    iterator.close()
    with pytest.raises(ValueError, match="closed"):
        next(iterator)


def test_short_clips_come_first_only_in_the_sortagrad_epochs(split, tokenizer):
    config = config_with(sortagrad_epochs=2)
    all_batches = list(batches(split, tokenizer, config, num_epochs=3))
    steps = len(all_batches) // 3
    lengths = np.array(
        [clip_length(entry.num_frames, entry.fps, config.data) for entry in split.index]
    )
    orders = [
        np.concatenate(
            [batch["index"] for batch in all_batches[epoch * steps : (epoch + 1) * steps]]
        )
        for epoch in range(3)
    ]
    orders = [order[order >= 0] for order in orders]
    assert all(sorted(order) == list(range(len(LENGTHS))) for order in orders)
    assert [bool((np.diff(lengths[order]) >= 0).all()) for order in orders] == [True, True, False]
    assert orders[0].tolist() != orders[1].tolist()


def test_resume_in_a_sortagrad_epoch_is_exact(split, tokenizer):
    config = config_with(sortagrad_epochs=1)
    uninterrupted = list(batches(split, tokenizer, config, num_epochs=2))
    resumed = batches(split, tokenizer, config, num_epochs=2)
    resumed.set_state(resumed.state_at(3))
    assert_equal_batches(list(resumed), uninterrupted[3:])


def test_resume_needs_the_same_number_of_sortagrad_epochs(split, tokenizer):
    resumed = batches(split, tokenizer, config_with(sortagrad_epochs=1))
    with pytest.raises(DatasetError, match="short_first_epochs: 0 then, 1 now"):
        resumed.set_state(batches(split, tokenizer).state_at(3))


def test_sortagrad_epochs_do_not_change_evaluation(split, tokenizer):
    ours, plain = (
        list(batches(split, tokenizer, config_with(sortagrad_epochs=n), training=False))
        for n in (2, 0)
    )
    assert_equal_batches(ours, plain)


@pytest.mark.parametrize("training", [True, False])
def test_segments_fill_the_longest_bucket(split, tokenizer, training):
    config = config_with(sampling="segment")
    first, second = (
        list(batches(split, tokenizer, config, training=training, num_epochs=1, seed=seed))
        for seed in (0, 0)
    )
    assert_equal_batches(first, second)
    longest = max(int(batch["frame_lengths"].max()) for batch in first)
    assert longest == config.data.num_frames


@pytest.mark.parametrize("batch_size", [1, 3, 5, 20])
def test_lengths_of_later_batches_are_known_in_advance(split, tokenizer, batch_size):
    iterator = batches(split, tokenizer, batch_size=batch_size, num_epochs=3)
    shapes = [
        iterator._source.config.frame_buckets[bucket]
        for epoch in range(3)
        for bucket in iterator._source.buckets_of_epoch(epoch)
    ]
    assert shapes[: iterator.steps_per_epoch] == [
        batch["video"].shape[1] for batch in batches(split, tokenizer, batch_size=batch_size)
    ]
    for first in range(iterator.total_steps):
        for end in {first + 1, iterator.steps_per_epoch, iterator.total_steps}:
            assert iterator.frames_of_steps(first, end) == sorted(
                set(shapes[first:end]), reverse=True
            )


def test_buckets_without_a_batch_are_not_among_the_known_lengths(split, tokenizer):
    # The clips have 1 to 8 and 15 frames.
    config = config_with(num_frames=16, frame_buckets=(2, 8, 9, 16))
    assert batches(split, tokenizer, config, batch_size=1).frames_of_steps(0, 13) == [16, 8, 2]
    assert batches(split, tokenizer, config, batch_size=20).frames_of_steps(0, 1) == [16]


SIDES = KeypointLayout("sides", ("nose", "left_hand", "right_hand"))


@pytest.fixture(scope="module")
def split_with_keypoints(tmp_path_factory) -> Split:
    """A split whose keypoints have x = number of the frame / 32; the left hand is never known."""
    folder = tmp_path_factory.mktemp("keypoints")
    records = []
    for i, length in enumerate(LENGTHS):
        points = np.full((length, 3, 3), 0.5, np.float16)
        points[..., 0] = np.arange(length)[:, None] / 32
        points[:, 1] = 0
        frames = [gray_jpeg(8 * k) for k in range(length)]
        records.append(record(f"clip-{i}", 0, frames=frames) | {"keypoints": points})
    toy_dataset.write(folder, SIDES, train=records)
    return open_dataset(folder, "toy").split("train")


@pytest.mark.parametrize("augment", [{}, {"speed": 0.2, "frame_jitter": 0.3, "frame_drop": 0.2}])
@pytest.mark.parametrize("processes", [0, 2])
def test_keypoints_are_those_of_the_sampled_frames(
    split_with_keypoints, tokenizer, augment, processes
):
    config = config_with(keypoints="auto", augment=augment, num_workers=processes)
    frames_seen = 0
    for batch in batches(split_with_keypoints, tokenizer, config):
        points = batch["keypoints"]
        assert points.shape == (*batch["video"].shape[:2], 3, 3) and points.dtype == np.float32
        for row, length in enumerate(batch["frame_lengths"]):
            gray = batch["video"][row, :length, 8, 8, 0]  # 8 * number of the frame
            if batch["weights"][row]:
                assert np.abs(points[row, :length, 0, 0] * 32 * 8 - gray).max() < 4
                assert (points[row, :length, [0, 2], 2] == 0.5).all()
                frames_seen += length
            assert not points[row, :length, 1].any() and not points[row, length:].any()
        right, left, face = np.moveaxis(batch["part_points"], 2, 0)
        np.testing.assert_array_equal(right, points[:, :, 2][..., [1, 0, 2]])
        np.testing.assert_array_equal(face, points[:, :, 0][..., [1, 0, 2]])
        assert not left.any()
    assert frames_seen > 40


def test_mirrored_clips_have_mirrored_keypoints(split_with_keypoints, tokenizer):
    config = config_with(keypoints="auto", augment={"mirror": True})
    mirrored = []
    for batch in batches(split_with_keypoints, tokenizer, config):
        for row in np.flatnonzero(batch["weights"]):
            nose, left, right = batch["keypoints"][row, 0]
            assert (left[2] == 0) == (right[2] > 0)
            assert nose[0] == (1.0 if left[2] else 0.0)  # x of the first frame is 0, mirrored 1
            mirrored.append(bool(left[2]))
    assert 0 < sum(mirrored) < len(mirrored)


@pytest.mark.parametrize("augment", [{}, AUGMENTED])
def test_keypoints_change_no_other_array(split_with_keypoints, tokenizer, augment):
    without = list(batches(split_with_keypoints, tokenizer, config_with(augment=augment)))
    config = config_with(augment=augment, keypoints="required")
    with_keypoints = list(batches(split_with_keypoints, tokenizer, config))
    assert not any("keypoints" in batch for batch in without)
    assert_equal_batches(
        [
            {k: v for k, v in b.items() if k not in ("keypoints", "part_points")}
            for b in with_keypoints
        ],
        without,
    )


def test_batches_of_a_data_set_without_keypoints_have_none(split, tokenizer):
    (batch, *_) = batches(split, tokenizer, config_with(keypoints="auto"))
    assert "keypoints" not in batch
    with pytest.raises(
        ConfigError, match="built without keypoints; allowed here: 'auto' or 'none'"
    ):
        batches(split, tokenizer, config_with(keypoints="required"))
