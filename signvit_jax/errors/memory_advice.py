"""Advice for runs that do not fit into memory: one list of options, in the order to try them."""

from collections.abc import Mapping

_SAME = "(the same result)"
_SLOWER = "(the same result, slower)"
_OTHER = "(another result)"

# Config key -> (what follows it where the config is not known, its effect).
_OPTIONS = {
    "training.gradient_accumulation": ("=2", f"runs a batch as that many microbatches {_SAME}"),
    "training.remat": (
        "=full",
        f"keeps less for the backward pass and computes it again {_SLOWER}",
    ),
    "model.encoder.frames_per_chunk": (
        "=64",
        f"the backbone takes that many frames per chunk {_SLOWER}",
    ),
    "training.adam_moments": (
        "=bfloat16",
        "two thirds of the state (for a run from its start; nearly the same result)",
    ),
    "mesh.fsdp": (
        "=2",
        f"shards parameters and optimizer state over that many devices {_SAME}",
    ),
    "training.batch_size": ("=8", f"a smaller batch {_OTHER}"),
    "data.num_frames": ("", f"fewer frames {_OTHER}"),
    "data.image_size": ("", f"smaller images {_OTHER}"),
    "inference.batch_size": (
        "=4",
        "fewer clips per batch in validation; eval and translate have the flag --batch_size",
    ),
}


def memory_advice(values: Mapping[str, str] | None = None) -> str:
    """Return numbered lines that say what to change, first what keeps the result.

    `values`: for a known config, each key that can still be changed and the text that follows it,
    such as {"training.remat": "=full"}. Without it all keys are listed, with example values.
    """
    if values is None:
        values = {key: example for key, (example, _) in _OPTIONS.items()}
    lines = [
        f"--config.{key}{values[key]}: {effect}"
        for key, (_, effect) in _OPTIONS.items()
        if key in values
    ]
    numbered = [f"  {number}. {line}" for number, line in enumerate(lines, 1)]
    return "\n".join(["What to do, in this order:", *numbered])
