"""Clips of several threads in one batch."""

import threading
import time
import types

import numpy as np
import pytest

from signvit_jax.config.schema import InferenceConfig
from signvit_jax.inference.predictor import BatchDecoder, Hypothesis


class CountingPredictor:
    """The 'text' of a clip is its first value; batches wait while `gate` is closed."""

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
    """Decode each list of clips in a thread of its own, all waiting for the first one's batch."""
    decoder = BatchDecoder({}, (4, 8), num_devices=1)
    decoder.most_shared = most_shared
    found: dict[int, object] = {}

    def run(number: int) -> None:
        try:
            found[number] = [
                one["greedy"].text for one in decoder.decode(clips[number], 0, predictor)
            ]
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
def test_threads_that_wait_share_batches_and_each_gets_its_own(most_shared, batches):
    predictor = CountingPredictor()
    found = decode_in_threads([[clip(n)] for n in range(6)], predictor, most_shared)
    assert found == [[str(n)] for n in range(6)] and sorted(predictor.batches) == sorted(batches)


def test_only_clips_of_one_bucket_share_a_batch_and_order_is_kept():
    predictor = CountingPredictor()
    lists = [[clip(1)], [clip(2, 7), clip(3)], [clip(4), clip(5, 8), clip(6)]]
    found = decode_in_threads(lists, predictor, 8)
    assert found == [["1"], ["2", "3"], ["4", "5", "6"]]
    assert sorted(predictor.batches) == [1, 1, 2, 2]


def test_what_a_batch_raises_reaches_all_its_threads_and_the_next_one_works():
    predictor = CountingPredictor(error=True)
    found = decode_in_threads([[clip(n)] for n in range(3)], predictor, 4)
    assert all(isinstance(one, MemoryError) for one in found)


def test_urgent_clips_take_every_other_batch():
    predictor = CountingPredictor()
    decoder = BatchDecoder({}, (4,), num_devices=1)
    decoder.most_shared = 2
    order = []
    real = decoder._decode_batch
    decoder._decode_batch = lambda clips, seed, by: (
        order.append([int(clip[0, 0, 0, 0]) for clip in clips]) or real(clips, seed, by)
    )
    values = [0, 1, 2, 3, 4, 101, 102, 103]  # from 100 on urgent
    threads = []
    for number, value in enumerate(values):
        threads.append(
            threading.Thread(
                target=decoder.decode,
                args=([clip(value)], int(value >= 100), predictor),
                kwargs={"is_urgent": value >= 100},
            )
        )
        threads[-1].start()
        while len(decoder._waiting) + bool(order) < number + 1 or not order:
            time.sleep(0.002)
    predictor.gate.set()
    for thread in threads:
        thread.join(60)
    assert order == [[0], [101, 102], [1, 2], [103], [3, 4]]
