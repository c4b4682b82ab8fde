"""Clips of several threads in one batch."""

import threading
import time
import types

import numpy as np
import pytest

from signvit_jax.config.schema import InferenceConfig
from signvit_jax.inference.predictor import BatchDecoder, Hypothesis, Priority


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


LIVE, FINAL = Priority.HYPOTHESIS, Priority.FINAL


@pytest.mark.parametrize(
    ("waiting", "batches"),
    [
        # Hypotheses and files take turns; clips of one kind fill each other's batches.
        ([*"abcd", (1, LIVE), (2, LIVE), (3, LIVE)], [[1, 2], "ab", [3], "cd"]),
        ([*"abc", (1, FINAL), (2, LIVE), (3, FINAL)], [[1, 3], "ab", [2], "c"]),
        # However many texts become final, a file need not wait for more than three batches.
        ([*"ab", *[(n, FINAL) for n in range(1, 9)]], [[1, 2], [3, 4], [5, 6], "ab", [7, 8]]),
    ],
    ids=["hypotheses", "final", "many"],
)
@pytest.mark.parametrize("same_programs", [False, True])
def test_live_texts_do_not_wait_behind_files(waiting, batches, same_programs):
    """Letters are files and numbers live texts; a batch has room for two."""
    predictor = CountingPredictor()
    decoder = BatchDecoder({}, (4,), num_devices=1)
    decoder.most_shared = 2
    order: list[list[int]] = []
    real = decoder._decode_batch
    decoder._decode_batch = lambda clips, seed, by: (
        order.append([int(clip[0, 0, 0, 0]) for clip in clips]) or real(clips, seed, by)
    )
    clips = [(0, Priority.FILE)]  # is on the device while the others come
    clips += [(ord(one), Priority.FILE) if isinstance(one, str) else one for one in waiting]
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
        assert order[1:] == [list(map(ord, b)) if isinstance(b, str) else b for b in batches]
        return
    # All may share a batch, and no live text comes later for it.
    places = {value: place for place, batch in enumerate(order) for value in batch}
    for place, batch in enumerate(batches, 1):
        assert all(places[value] <= place for value in batch if value in range(1, 9)), order
