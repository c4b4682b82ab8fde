r"""Measure decoding of 64 tokens: our decoder with its cache, without it, and PyTorch's.

    python scripts/bench/decoding.py --runs=3 --dtype=float32 \
        --torch_python=torch_environment/bin/python

The decoder has the reference's size. There are two jobs: greedy search for one clip, and a beam of
4 for 16 clips. No sentence ends before the limit. The implementations take turns; times are
medians.

The loop without cache is timed at only four prefix lengths, evenly spread; the time of the complete
loop is computed from these. Without cache, and in torch, the 64 rows of the beam are decoded
greedily, so only our time includes the work of the search itself (top-k, reordering).
"""

import argparse
import functools
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
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
    """Estimate the seconds of a loop that computes the complete prefix again for every token.

    `step(length)` returns the seconds of one step with a prefix of `length` tokens.
    """
    lengths = [TOKENS * (2 * part + 1) // 8 for part in range(4)]  # the middles of four quarters
    return sum(step(length) for length in lengths) * (TOKENS - 1) / 4


class TorchProcess:
    """`torch_decoder.py` in its own process, so that the libraries share no threads or memory."""

    def __init__(self, python: str):
        script = Path(__file__).with_name("torch_decoder.py")
        self.process = subprocess.Popen(
            [python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None  # by PIPE
        self.replies = self.process.stdout
        about = json.loads(self.replies.readline())
        print(f"torch {about['version']}, {about['threads']} threads")

    def seconds(self, do: str, **values: object) -> float:
        print(json.dumps({"do": do, **values}), file=self.process.stdin, flush=True)
        return json.loads(self.replies.readline())["seconds"]

    def load(self, decoder: TextDecoder, memory: np.ndarray) -> None:
        weights = {
            "heads": decoder.heads,
            "layers": len(decoder.layers),
            "memory": memory,
            "embedding": np.asarray(decoder.embedding[...]),
            "positions": sinusoids(decoder.max_len, memory.shape[-1]),
        }
        for number, layer in enumerate(decoder.layers):
            params = nnx.to_pure_dict(nnx.state(layer, nnx.Param))
            for path, leaf in jax.tree.leaves_with_path(params):
                name = "/".join(str(key.key) for key in path)
                weights[f"{number}/{name}"] = np.asarray(leaf)
        with tempfile.TemporaryDirectory() as folder:
            np.savez(Path(folder) / "weights.npz", **weights)
            self.seconds("load", weights=f"{folder}/weights.npz")

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            np.save(Path(folder) / "tokens.npy", tokens)
            self.seconds("logits", tokens=f"{folder}/tokens.npy", out=f"{folder}/logits.npy")
            return np.load(Path(folder) / "logits.npy")


def implementations(
    decoder: TextDecoder, clips: int, beam: int, torch: TorchProcess | None
) -> dict[str, Callable[[], float]]:
    """Return functions by name; each decodes once and returns the seconds that it took."""
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

    def uncached_step(length):
        return seconds(uncached, np.full((len(rows), length), BOS, np.int32))

    calls = {
        "ours, cached": lambda: seconds(search),
        "ours, uncached": lambda: uncached_loop(uncached_step),
    }
    if torch:
        torch.load(decoder, np.asarray(rows, np.float32))
        prefix = np.random.default_rng(0).integers(1, VOCABULARY, (len(rows), 16))
        difference = np.abs(torch.logits(prefix) - np.asarray(uncached(prefix))).max()
        print(f"torch's logits differ from ours by at most {difference:.1e}")
        step = functools.partial(torch.seconds, "step", rows=len(rows), bos_id=BOS)
        calls["torch, cached"] = lambda: torch.seconds(
            "decode", rows=len(rows), max_len=TOKENS, bos_id=BOS
        )
        calls["torch, uncached"] = lambda: uncached_loop(lambda length: step(length=length))
    return calls


def bandwidth() -> float:
    """Return bytes per second of multiplying a vector by a matrix larger than the caches."""
    matrix, vector = jnp.ones((1 << 17, 512)), jnp.ones(512)
    multiply = jax.jit(lambda matrix, vector: jnp.einsum("vd,d->v", matrix, vector))
    seconds(multiply, matrix, vector)
    return matrix.nbytes / min(seconds(multiply, matrix, vector) for _ in range(9))


def weight_bytes_per_token(decoder: TextDecoder) -> int:
    """Return the bytes of weights that one step must read, in the dtype of the computation.

    The weights that project the memory are read once a sentence and do not count.
    """
    leaves = jax.tree.leaves_with_path(nnx.state(decoder, nnx.Param))
    count = sum(leaf.size for path, leaf in leaves if "key_value" not in jax.tree_util.keystr(path))
    return count * jnp.dtype(decoder.dtype).itemsize


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--torch_python", help="a Python with torch and numpy; default: no torch")
    args = parser.parse_args()

    decoder = TextDecoder(
        DecoderConfig(max_len=TOKENS),
        VOCABULARY,
        dtype=jnp.dtype(args.dtype),
        rngs=nnx.Rngs(params=jax.random.key(0)),
    )
    torch = TorchProcess(args.torch_python) if args.torch_python else None
    print(
        f"{jax.devices()[0].device_kind}, {args.dtype}, {TOKENS} tokens, "
        f"vocabulary {VOCABULARY}; medians of {args.runs} runs in turn"
    )
    for name, clips, beam in (
        ("greedy, 1 clip", 1, 1),
        (f"beam {BEAM}, {CLIPS} clips", CLIPS, BEAM),
    ):
        calls = implementations(decoder, clips, beam, torch)
        durations_of = {implementation: [] for implementation in calls}
        for run in range(args.runs + 1):
            for implementation, call in calls.items():
                duration = call()
                if run:  # the first one is the warm-up
                    durations_of[implementation].append(duration)
        ours = statistics.median(durations_of["ours, cached"])
        for implementation, durations in durations_of.items():
            median = statistics.median(durations)
            print(
                f"{name:18} {implementation:16} {median:9.3f} s {median / clips:8.3f} s a clip "
                f"{median / ours:7.1f} x ours (best {min(durations):.3f} s)"
            )
    per_token, rate = weight_bytes_per_token(decoder), bandwidth()
    bound = per_token / rate * (TOKENS - 1)
    print(
        f"bound for one clip: {per_token / 1e6:.0f} MB of weights a token at "
        f"{rate / 1e9:.1f} GB/s, {bound:.3f} s a sentence"
    )


if __name__ == "__main__":
    main()
