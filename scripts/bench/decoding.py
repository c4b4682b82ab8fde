"""Seconds to decode 64 tokens with the reference's decoder: ours with its cache, the same model without one, and torch where installed.

    python scripts/bench/decoding.py --runs=3 --dtype=float32

Two jobs: greedy search for one clip, and a beam of 4 for 16 clips. No sentence ends before the limit. The contenders take turns; times are medians.
A loop without cache is timed at four prefix lengths, spread evenly, of which the whole loop's time is made: its prefix grows, nothing is padded.
Without cache and in torch the beam's 64 rows are decoded greedily: a search's own work (top-k, reordering) is counted for ours alone.
"""

import argparse
import importlib.util
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from signvit_jax.config import DecoderConfig
from signvit_jax.decoding.autoregressive import Source
from signvit_jax.decoding.beam_search import beam_search
from signvit_jax.decoding.greedy import greedy
from signvit_jax.models.decoder import TextDecoder

VOCABULARY, TOKENS, MEMORY, BEAM, CLIPS = 30522, 64, 32, 4, 16
BOS, NO_EOS = 101, -1


def seconds(call, *inputs) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call(*inputs))
    return time.perf_counter() - start


def uncached_loop(step, rows: int) -> float:
    """Seconds of a loop that runs its whole prefix at every token."""
    prefixes = [np.full((rows, TOKENS * (2 * part + 1) // 8), BOS, np.int32) for part in range(4)]
    return sum(seconds(step, prefix) for prefix in prefixes) * (TOKENS - 1) / 4


def contenders(decoder: TextDecoder, clips: int, beam: int) -> dict:
    """Name -> a call that runs once and says how many seconds decoding took."""
    memory = jax.random.normal(jax.random.key(1), (clips, MEMORY, decoder.embedding.shape[1]), decoder.dtype)
    source, ids = Source(decoder, memory), {"bos_id": BOS, "eos_id": NO_EOS, "max_len": TOKENS}
    rows = jnp.repeat(memory, beam, axis=0)
    forward = jax.jit(lambda decoder, tokens, memory: decoder(tokens, memory)[:, -1])

    def uncached(tokens):
        return forward(decoder, tokens, rows)

    search = (lambda: greedy(source, **ids)) if beam == 1 else (lambda: beam_search(source, **ids, beam_size=beam))
    found = {"ours, cached": lambda: seconds(search), "ours, uncached": lambda: uncached_loop(uncached, len(rows))}
    if importlib.util.find_spec("torch"):
        from torch_decoder import TorchDecoder

        theirs = TorchDecoder(decoder, np.asarray(rows, np.float32))
        prefix = np.random.default_rng(0).integers(1, VOCABULARY, (len(rows), 16))
        difference = np.abs(theirs.step_uncached(prefix).numpy() - np.asarray(uncached(prefix))).max()
        print(f"torch's logits differ from ours by at most {difference:.1e}")
        found["torch, cached"] = lambda: seconds(theirs.decode, len(rows), TOKENS, BOS)
        found["torch, uncached"] = lambda: uncached_loop(theirs.step_uncached, len(rows))
    return found


def bandwidth() -> float:
    """Bytes a second at which a matrix far larger than the caches is multiplied with a vector."""
    matrix, vector = jnp.ones((1 << 17, 512)), jnp.ones(512)
    multiply = jax.jit(lambda matrix, vector: jnp.einsum("vd,d->v", matrix, vector))
    seconds(multiply, matrix, vector)
    return matrix.nbytes / min(seconds(multiply, matrix, vector) for _ in range(9))


def weight_bytes_per_token(decoder: TextDecoder) -> int:
    """What one step must read: every weight but those that project the memory, once a sentence; in the dtype that it computes in."""
    paths = jax.tree.leaves_with_path(nnx.state(decoder, nnx.Param))
    return sum(leaf.size for path, leaf in paths if "key_value" not in jax.tree_util.keystr(path)) * jnp.dtype(decoder.dtype).itemsize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    args = parser.parse_args()

    decoder = TextDecoder(DecoderConfig(max_len=TOKENS), VOCABULARY, dtype=jnp.dtype(args.dtype), rngs=nnx.Rngs(params=jax.random.key(0)))
    print(f"{jax.devices()[0].device_kind}, {args.dtype}, {TOKENS} tokens, vocabulary {VOCABULARY}; medians of {args.runs} runs in turn")
    for name, clips, beam in (("greedy, 1 clip", 1, 1), (f"beam {BEAM}, {CLIPS} clips", CLIPS, BEAM)):
        calls = contenders(decoder, clips, beam)
        taken = {contender: [] for contender in calls}
        for run in range(args.runs + 1):
            for contender, call in calls.items():
                duration = call()
                if run:  # the first warms up
                    taken[contender].append(duration)
        ours = statistics.median(taken["ours, cached"])
        for contender, durations in taken.items():
            median = statistics.median(durations)
            print(
                f"{name:18} {contender:16} {median:9.3f} s {median / clips:8.3f} s a clip {median / ours:7.1f} x ours (best {min(durations):.3f} s)"
            )
    per_token, rate = weight_bytes_per_token(decoder), bandwidth()
    bound = per_token / rate * (TOKENS - 1)
    print(f"bound for one clip: {per_token / 1e6:.0f} MB of weights a token at {rate / 1e9:.1f} GB/s, {bound:.3f} s a sentence")


if __name__ == "__main__":
    main()
