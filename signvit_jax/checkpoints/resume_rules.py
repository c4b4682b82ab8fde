"""What a resumed run may change of its config."""

from signvit_jax.config.errors import ConfigError
from signvit_jax.config.schema import Config, key_differences

# Keys that a resumed run may not change: the saved parameters, optimizer state, vocabulary or data
# position would no longer fit, or the finished part of the run would have come out differently.
# Everything else (rates, loss weights, augmentation, patience, epochs, mesh, inference ...) may
# change.
_FIXED = (
    "data.frame_buckets",
    "data.frame_rate",
    "data.image_size",
    "data.mean",
    "data.name",
    "data.num_frames",
    "data.resize_mode",
    "data.sampling",
    "data.std",
    "data.train_split",
    "training.batch_size",
    "training.seed",
    "training.weight_decay_on",
)
_FIXED_GROUPS = ("model.", "tokenizer.")
_FREE_IN_GROUPS = (  # last parts of keys in these groups that may change
    "dropout",
    "attention_dropout",
    "drop_path",
    "freeze_epochs",
    "gloss_corruption",
    "init_from",
    "pretrained",
    "attention",
    "frames_per_chunk",
    "patch_drop",
    "token_merge",
    "dropout_rng_impl",
)


def check_resume(old: Config, new: Config) -> list[tuple[str, object, object]]:
    """Return (key, old value, new value) of each config key that a resumed run changes.

    Raises ConfigError, which lists the changed keys that it may not change.
    """
    differences = key_differences(old, new)
    refused = [
        (key, before, now) for key, before, now in differences if _is_fixed(key, before, now)
    ]
    if refused:
        lines = "\n".join(
            f"  config.{key}: {before!r} in the workdir, {now!r} now"
            for key, before, now in refused
        )
        raise ConfigError(
            f"this workdir was made with another model, vocabulary or data set:\n{lines}\n"
            "Use the old values, or give another --workdir"
        )
    return differences


def _is_fixed(key: str, before: object, now: object) -> bool:
    if key in ("training.ema_decay", "training.distillation.teacher"):
        return not (before and now)  # may change, but not be switched on or off (0 or "")
    if key.startswith(_FIXED_GROUPS):
        return key.rsplit(".", 1)[-1] not in _FREE_IN_GROUPS
    return key in _FIXED
