"""Seconds to decode 64 tokens with the reference's decoder: ours with its cache, the same model without one, and torch where there is one.

    python scripts/bench/decoding.py --runs=3 --dtype=float32 --torch_python=torch_environment/bin/python

Two jobs: greedy search for one clip, and a beam of 4 for 16 clips. No sentence ends before the limit. The contenders take turns; times are medians.
A loop without cache is timed at four prefix lengths, spread evenly, of which the whole loop's time is made: its prefix grows, nothing is padded.
Without cache and in torch the beam's 64 rows are decoded greedily: a search's own work (top-k, reordering) is counted for ours alone.
"""

import argparse
import functools
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from signvit_jax.config.schema import DecoderConfig
from signvit_jax.decoding.autoregressive import Source
from signvit_jax.decoding.beam_search import beam_search
from signvit_jax.decoding.greedy import greedy
from signvit_jax.decoding.search_options import SearchOptions
from signvit_jax.layers.positions import sinusoids
from signvit_jax.models.decoder import TextDecoder

VOCABULARY, TOKENS, MEMORY, BEAM, CLIPS = 30522, 64, 32, 4, 16
BOS, NO_EOS = 101, -1


def seconds(call, *inputs) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call(*inputs))
    return time.perf_counter() - start


def uncached_loop(step) -> float:
    """Seconds of a loop that runs its whole prefix at every token; `step(length)` is the seconds of one step."""
    return sum(step(TOKENS * (2 * part + 1) // 8) for part in range(4)) * (TOKENS - 1) / 4


class TorchProcess:
    """`torch_decoder.py` under a Python of its own, so that neither library takes the other's threads or memory."""

    def __init__(self, python: str):
        script = Path(__file__).with_name("torch_decoder.py")
        self.process = subprocess.Popen(
            [python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        print(
            "torch {version}, {threads} threads".format(
                **json.loads(self.process.stdout.readline())
            )
        )

    def seconds(self, do: str, **values: object) -> float:
        print(json.dumps({"do": do, **values}), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())["seconds"]

    def load(self, decoder: TextDecoder, memory: np.ndarray) -> None:
        weights = {
            "heads": decoder.heads,
            "layers": len(decoder.layers),
            "memory": memory,
            "embedding": np.asarray(decoder.embedding[...]),
        }
        weights["positions"] = sinusoids(decoder.max_len, memory.shape[-1])
        for number, layer in enumerate(decoder.layers):
            for path, leaf in jax.tree.leaves_with_path(
                nnx.to_pure_dict(nnx.state(layer, nnx.Param))
            ):
                weights[f"{number}/" + "/".join(str(key.key) for key in path)] = np.asarray(leaf)
        with tempfile.TemporaryDirectory() as folder:
            np.savez(Path(folder) / "weights.npz", **weights)
            self.seconds("load", weights=f"{folder}/weights.npz")

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            np.save(Path(folder) / "tokens.npy", tokens)
            self.seconds("logits", tokens=f"{folder}/tokens.npy", out=f"{folder}/logits.npy")
            return np.load(Path(folder) / "logits.npy")


def contenders(decoder: TextDecoder, clips: int, beam: int, torch: TorchProcess | None) -> dict:
    """Name -> a call that runs once and says how many seconds decoding took."""
    memory = jax.random.normal(
        jax.random.key(1), (clips, MEMORY, decoder.embedding.shape[1]), decoder.dtype
    )
    source = Source(decoder, memory)
    options = SearchOptions(bos_id=BOS, eos_id=NO_EOS, max_len=TOKENS, beam_size=beam)
    rows = jnp.repeat(memory, beam, axis=0)
    forward = jax.jit(lambda decoder, tokens, memory: decoder(tokens, memory)[:, -1])

    def uncached(tokens):
        return forward(decoder, tokens, rows)

    search = functools.partial(greedy if beam == 1 else beam_search, source, options)
    found = {
        "ours, cached": lambda: seconds(search),
        "ours, uncached": lambda: uncached_loop(
            lambda length: seconds(uncached, np.full((len(rows), length), BOS, np.int32))
        ),
    }
    if torch:
        torch.load(decoder, np.asarray(rows, np.float32))
        prefix = np.random.default_rng(0).integers(1, VOCABULARY, (len(rows), 16))
        difference = np.abs(torch.logits(prefix) - np.asarray(uncached(prefix))).max()
        print(f"torch's logits differ from ours by at most {difference:.1e}")
        step = functools.partial(torch.seconds, "step", rows=len(rows), bos_id=BOS)
        found["torch, cached"] = lambda: torch.seconds(
            "decode", rows=len(rows), max_len=TOKENS, bos_id=BOS
        )
        found["torch, uncached"] = lambda: uncached_loop(lambda length: step(length=length))
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
    return (
        sum(leaf.size for path, leaf in paths if "key_value" not in jax.tree_util.keystr(path))
        * jnp.dtype(decoder.dtype).itemsize
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--torch_python", help="a Python that has torch and numpy; without it torch is left out"
    )
    args = parser.parse_args()

    decoder = TextDecoder(
        DecoderConfig(max_len=TOKENS),
        VOCABULARY,
        dtype=jnp.dtype(args.dtype),
        rngs=nnx.Rngs(params=jax.random.key(0)),
    )
    torch = TorchProcess(args.torch_python) if args.torch_python else None
    print(
        f"{jax.devices()[0].device_kind}, {args.dtype}, {TOKENS} tokens, vocabulary {VOCABULARY}; medians of {args.runs} runs in turn"
    )
    for name, clips, beam in (
        ("greedy, 1 clip", 1, 1),
        (f"beam {BEAM}, {CLIPS} clips", CLIPS, BEAM),
    ):
        calls = contenders(decoder, clips, beam, torch)
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
    print(
        f"bound for one clip: {per_token / 1e6:.0f} MB of weights a token at {rate / 1e9:.1f} GB/s, {bound:.3f} s a sentence"
    )


if __name__ == "__main__":
    main()
