"""Batches that clips of several threads share."""

import threading
import time
import types

import numpy as np
import pytest

from signvit_jax.config.schema import InferenceConfig
from signvit_jax.inference.predictor import BatchDecoder, Hypothesis, Priority


class CountingPredictor:
    """A predictor whose text of a clip is its first pixel value; batches wait for `gate`."""

    def __init__(self, *, error: bool = False):
        self.config = InferenceConfig()
        self.tokenizers = {"greedy": types.SimpleNamespace()}
        self.gate = threading.Event()
        self.batches: list[int] = []
        self.error = error

    def __call__(self, weights, batch, seed):
        assert self.gate.wait(60)
        self.batches.append(len(batch["video"]))
        if self.error:
            raise MemoryError("no room")
        texts = [str(int(video[0, 0, 0, 0])) for video in batch["video"]]
        return {"greedy": [Hypothesis(text, (), 0.0, 1.0) for text in texts]}


def clip(value: int, frames: int = 4) -> np.ndarray:
    return np.full((frames, 2, 2, 3), value, np.uint8)


def decode_in_threads(clips, predictor, most_shared: int):
    """Decode each list of clips in its own thread; return the texts or the error of each thread.

    All other threads wait until the batch of the first thread is decoded.
    """
    decoder = BatchDecoder({}, (4, 8), num_devices=1)
    decoder.most_shared = most_shared
    found: dict[int, object] = {}

    def run(number: int) -> None:
        try:
            hypotheses = decoder.decode(clips[number], 0, predictor)
            found[number] = [by_decoder["greedy"].text for by_decoder in hypotheses]
        except MemoryError as error:
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(clips))]
    threads[0].start()
    end = time.monotonic() + 20
    while most_shared > 1 and decoder._waiting and time.monotonic() < end:
        time.sleep(0.005)
    for thread in threads[1:]:
        thread.start()
    waiting = sum(map(len, clips[1:]))
    while most_shared > 1 and len(decoder._waiting) < waiting and time.monotonic() < end:
        time.sleep(0.005)
    predictor.gate.set()
    for thread in threads:
        thread.join(60)
    assert not decoder._waiting
    return [found[number] for number in range(len(clips))]


@pytest.mark.parametrize(
    ("most_shared", "batches"), [(1, [1] * 6), (2, [1, 2, 2, 1]), (4, [1, 4, 1]), (8, [1, 4, 1])]
)
def test_waiting_threads_share_batches_and_each_gets_its_own_texts(most_shared, batches):
    predictor = CountingPredictor()
    found = decode_in_threads([[clip(n)] for n in range(6)], predictor, most_shared)
    assert found == [[str(n)] for n in range(6)] and sorted(predictor.batches) == sorted(batches)


def test_only_clips_of_one_bucket_share_a_batch_and_order_is_kept():
    predictor = CountingPredictor()
    lists = [[clip(1)], [clip(2, 7), clip(3)], [clip(4), clip(5, 8), clip(6)]]
    found = decode_in_threads(lists, predictor, 8)
    assert found == [["1"], ["2", "3"], ["4", "5", "6"]]
    assert sorted(predictor.batches) == [1, 1, 2, 2]


def test_an_exception_of_a_batch_reaches_all_its_threads():
    predictor = CountingPredictor(error=True)
    found = decode_in_threads([[clip(n)] for n in range(3)], predictor, 4)
    assert all(isinstance(error, MemoryError) for error in found)


LIVE, FINAL = Priority.HYPOTHESIS, Priority.FINAL


@pytest.mark.parametrize(
    ("waiting", "batches"),
    [
        # Batches of live hypotheses and of files take turns.
        ([*"abcd", (1, LIVE), (2, LIVE), (3, LIVE)], [[1, 2], "ab", [3], "cd"]),
        ([*"abc", (1, FINAL), (2, LIVE), (3, FINAL)], [[1, 3], "ab", [2], "c"]),
        # A file waits for three batches at most, even if many texts become final.
        ([*"ab", *[(n, FINAL) for n in range(1, 9)]], [[1, 2], [3, 4], [5, 6], "ab", [7, 8]]),
    ],
    ids=["hypotheses", "final", "many"],
)
@pytest.mark.parametrize("same_programs", [False, True])
def test_live_texts_do_not_wait_behind_files(waiting, batches, same_programs):
    """In the parameters, letters are files and numbers are live texts. A batch has two clips."""
    predictor = CountingPredictor()
    decoder = BatchDecoder({}, (4,), num_devices=1)
    decoder.most_shared = 2
    order: list[list[int]] = []
    decode_batch = decoder._decode_batch

    def record_batch(clips, seed, predictor):
        order.append([int(clip[0, 0, 0, 0]) for clip in clips])
        return decode_batch(clips, seed, predictor)

    decoder._decode_batch = record_batch
    clips = [(0, Priority.FILE)]  # its batch is on the device while the other clips arrive
    for entry in waiting:
        clips.append((ord(entry), Priority.FILE) if isinstance(entry, str) else entry)
    threads = []
    for number, (value, priority) in enumerate(clips):
        seed = 0 if same_programs else int(priority)
        threads.append(
            threading.Thread(
                target=decoder.decode,
                args=([clip(value)], seed, predictor),
                kwargs={"priority": priority},
            )
        )
        threads[-1].start()
        while len(decoder._waiting) + bool(order) < number + 1 or not order:
            time.sleep(0.002)
    predictor.gate.set()
    for thread in threads:
        thread.join(60)
    if not same_programs:
        expected = [list(map(ord, batch)) if isinstance(batch, str) else batch for batch in batches]
        assert order[1:] == expected
        return
    # Now files and live texts may share a batch, and no live text is decoded later than before.
    positions = {value: position for position, batch in enumerate(order) for value in batch}
    for position, batch in enumerate(batches, 1):
        if not isinstance(batch, str):
            assert all(positions[value] <= position for value in batch), order
