r"""Compare our CTC loss with `optax.ctc_loss`, in time and memory; time CTC prefix beam search.

    python scripts/bench/ctc.py --batch=16 --steps=64 --labels=64 --vocabulary=30522 \
        --dtype=float32 --runs=7

The losses and their gradients are computed in one process, in turn. Times are medians of wall time
and of CPU time; on a busy machine the CPU time is the better comparison. Memory is what the
compiled step needs in addition to its arguments: temporaries and the gradient. The search runs on
logits (batch, steps, 8000) with a beam of 8.
"""

import argparse
import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from signvit_jax.decoding.ctc_prefix_beam import ctc_prefix_beam_search
from signvit_jax.models.ctc_loss import ctc_loss


def ours(logits, logit_lengths, labels, label_lengths):
    return ctc_loss(logits, logit_lengths, labels, label_lengths)[0].mean()


def theirs(logits, logit_lengths, labels, label_lengths):
    logit_paddings = jnp.arange(logits.shape[1]) >= logit_lengths[:, None]
    label_paddings = jnp.arange(labels.shape[1]) >= label_lengths[:, None]
    return optax.ctc_loss(
        logits, logit_paddings.astype(jnp.float32), labels, label_paddings.astype(jnp.float32)
    ).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--labels", type=int, default=32)
    parser.add_argument("--vocabulary", type=int, default=30522)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--without_search", action="store_true")
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    logits = jnp.asarray(
        rng.standard_normal((args.batch, args.steps, args.vocabulary), np.float32), args.dtype
    )
    labels = jnp.asarray(rng.integers(1, args.vocabulary, (args.batch, args.labels)), jnp.int32)
    lengths = (
        jnp.full(args.batch, args.steps, jnp.int32),
        jnp.asarray(rng.integers(1, args.labels + 1, args.batch), jnp.int32),
    )
    inputs = (logits, lengths[0], labels, lengths[1])

    compiled = {
        name: jax.jit(jax.value_and_grad(loss)).lower(*inputs).compile()
        for name, loss in (("ours", ours), ("optax", theirs))
    }
    seconds: dict[str, list[float]] = {name: [] for name in compiled}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in compiled}
    for run in range(args.runs + 1):
        for name, step in compiled.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            jax.block_until_ready(step(*inputs))
            if run:  # the first one is the warm-up
                seconds[name].append(time.perf_counter() - start)
                cpu_seconds[name].append(time.process_time() - cpu_start)

    shape = f"({args.batch}, {args.steps}, {args.vocabulary}) {args.dtype}"
    print(
        f"{jax.devices()[0].device_kind}, logits {shape}, {args.labels} labels, "
        f"medians of {args.runs} runs"
    )
    times = {name: statistics.median(runs) for name, runs in seconds.items()}
    cpu_times = {name: statistics.median(runs) for name, runs in cpu_seconds.items()}
    memories = {}
    for name, step in compiled.items():
        memory = step.memory_analysis()
        assert memory is not None
        memories[name] = memory.temp_size_in_bytes + memory.output_size_in_bytes
        print(
            f"{name:6}  {times[name] * 1e3:8.1f} ms   {cpu_times[name] * 1e3:8.1f} ms CPU   "
            f"{memories[name] / 2**20:8.1f} MiB"
        )
    time_ratio, cpu_ratio, memory_ratio = (
        values["ours"] / values["optax"] for values in (times, cpu_times, memories)
    )
    print(
        f"ours/optax: time {time_ratio:.2f}, CPU {cpu_ratio:.2f}, memory {memory_ratio:.2f}; "
        f"load {os.getloadavg()[0]:.1f}"
    )
    if args.without_search:
        return

    logits = logits[..., :8000]
    searching = []
    for run in range(args.runs + 1):
        start = time.perf_counter()
        jax.block_until_ready(ctc_prefix_beam_search(logits, lengths[0], beam_size=8))
        if run:
            searching.append(time.perf_counter() - start)
    print(
        f"prefix beam search at {logits.shape}, beam 8: {statistics.median(searching) * 1e3:.1f} ms"
    )


if __name__ == "__main__":
    main()
