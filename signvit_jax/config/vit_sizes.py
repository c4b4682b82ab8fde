"""Standard sizes of vision Transformers, by name."""

import re

from signvit_jax.config.errors import ConfigError

# width, heads, layers, width of the MLP: table 1 of Dosovitskiy et al. 2021; Ti and S of DeiT
_SIZES = {
    "Ti": (192, 3, 12, 768),
    "S": (384, 6, 12, 1536),
    "B": (768, 12, 12, 3072),
    "L": (1024, 16, 24, 4096),
    "H": (1280, 16, 32, 5120),
}


def vit(variant: str) -> dict[str, str | int]:
    """Return the keys of `model.encoder` for a variant such as "L/16": size / patch size in pixels.

    For a config file: `"encoder": vit("L/16") | {"dropout": 0.1}`. Raises ConfigError.
    """
    match = re.fullmatch(r"(\w+)/([1-9]\d*)", variant)
    if match is None or match[1] not in _SIZES:
        sizes = ", ".join(_SIZES)
        raise ConfigError(
            f"{variant!r} is not a ViT; allowed: one of {sizes} and a patch size, as in L/16"
        )
    width, heads, layers, mlp = _SIZES[match[1]]
    return {
        "backbone": "dense_vit",
        "output_dim": width,
        "vit_hidden_dim": width,
        "vit_num_heads": heads,
        "vit_num_layers": layers,
        "vit_mlp_dim": mlp,
        "patch_size": int(match[2]),
    }
