"""Backbones with the names of other programs: converted, resized and refused."""

import jax
import numpy as np
import pytest
from flax import nnx

from signvit_jax.backbones import mobilenet_v3 as mobilenet
from signvit_jax.backbones.vit import DenseViT
from signvit_jax.config.schema import EncoderConfig
from signvit_jax.layers.compute_policy import ComputePolicy
from signvit_jax.weights import mobilenet_v3, timm_vit
from signvit_jax.weights.mapping import WeightsError, flat_parameters
from signvit_jax.weights.pretrained import read_pretrained
from signvit_jax.weights.tensor_files import read_tensors, write_safetensors

VIT = EncoderConfig(
    output_dim=8, vit_hidden_dim=8, vit_num_heads=2, vit_num_layers=2, vit_mlp_dim=12, patch_size=4
)
MOBILE = EncoderConfig(backbone="mobilenet_v3_large", mobilenet_width=0.1, output_dim=96)


def random_like(module) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        path: rng.normal(size=leaf.shape).astype(np.float32)
        for path, leaf in flat_parameters(module).items()
    }


@pytest.fixture(scope="module")
def vit():
    """Random parameters of a ViT for images of 8 x 8 pixels."""
    return random_like(
        nnx.eval_shape(
            lambda: DenseViT(
                VIT, 8, policy=ComputePolicy(), rngs=nnx.Rngs(params=jax.random.key(0))
            )
        )
    )


@pytest.fixture(scope="module")
def mobile():
    return random_like(
        nnx.eval_shape(
            lambda: mobilenet.MobileNetV3(
                mobilenet.mobilenet_v3_large_spec(0.1),
                policy=ComputePolicy(),
                rngs=nnx.Rngs(params=jax.random.key(0)),
            )
        )
    )


def shapes(parameters):
    return {path: value.shape for path, value in parameters.items()}


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def test_a_timm_vit_converts_there_and_back(vit, tmp_path):
    theirs = timm_vit.from_ours(vit)
    assert theirs["blocks.1.attn.qkv.weight"].shape == (24, 8) and theirs[
        "patch_embed.proj.weight"
    ].shape == (8, 3, 4, 4)
    write_safetensors(
        tmp_path / "vit.safetensors", theirs | {"head.weight": np.ones((3, 8), np.float32)}
    )
    file = read_pretrained(tmp_path / "vit.safetensors")
    assert (file.backbone, file.epsilon) == ("dense_vit", 1e-6)
    same(file.parameters(VIT, shapes(vit)), vit)


@pytest.mark.parametrize("stacked", [False, True], ids=["separate blocks", "stacked"])
def test_a_big_vision_vit_converts_there_and_back(vit, tmp_path, stacked):
    theirs = big_vision_names(timm_vit.from_ours(vit), heads=2)
    assert theirs[
        "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"
    ].shape == (8, 2, 4)
    if stacked:
        inner = {
            name.split("/", 2)[2]
            for name in theirs
            if name.startswith("Transformer/encoderblock_0/")
        }
        blocks = {
            f"Transformer/encoderblock/{n}": np.stack(
                [theirs[f"Transformer/encoderblock_{i}/{n}"] for i in range(2)]
            )
            for n in inner
        }
        theirs = {
            name: value for name, value in theirs.items() if "encoderblock_" not in name
        } | blocks
    np.savez(tmp_path / "vit.npz", **{f"params/{name}": value for name, value in theirs.items()})
    file = read_pretrained(tmp_path / "vit.npz")
    same(file.parameters(VIT, shapes(vit)), vit)
    with pytest.raises(WeightsError, match="2 heads"):
        file.parameters(EncoderConfig(vit_num_heads=4), shapes(vit))


def test_big_visions_key_is_part_of_the_fused_projection(vit):
    theirs = big_vision_names(timm_vit.from_ours(vit), heads=2)
    x = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
    kernel = theirs["Transformer/encoderblock_1/MultiHeadDotProductAttention_0/key/kernel"]
    fused = x @ vit["blocks/attention/qkv/kernel"][1]
    np.testing.assert_allclose(
        np.einsum("sd,dnk->snk", x, kernel).reshape(5, 8), fused[:, 8:16], atol=1e-5
    )


def test_positions_are_resized_without_the_class_token(vit):
    theirs = timm_vit.from_ours(vit)
    rows = np.linspace(0, 1, 4, dtype=np.float32)
    ramp = np.broadcast_to(rows[:, None, None], (4, 4, 8)).reshape(
        1, 16, 8
    )  # brighter from top to bottom
    theirs["pos_embed"] = np.concatenate([vit["positions"][:, :1], ramp], axis=1)
    ours = timm_vit.to_ours(theirs, shapes(vit))["positions"]
    np.testing.assert_array_equal(ours[:, 0], vit["positions"][:, 0])
    grid = ours[0, 1:].reshape(2, 2, 8)
    np.testing.assert_allclose(grid[:, 0], grid[:, 1], atol=1e-6)
    assert np.all(grid[0] < 0.4) and np.all(grid[1] > 0.6)
    without = timm_vit.to_ours(theirs | {"pos_embed": ramp}, shapes(vit))["positions"]
    np.testing.assert_array_equal(without[0, 0], 0)
    np.testing.assert_allclose(without[:, 1:], ours[:, 1:])
    with pytest.raises(WeightsError, match="15 positions"):
        timm_vit.to_ours(theirs | {"pos_embed": ramp[:, :15]}, shapes(vit))


def test_torchvisions_mobilenet_converts_there_and_back(mobile):
    theirs = mobilenet_v3.from_ours(mobile)
    assert {
        "features.15.block.2.fc1.weight",
        "features.1.block.0.0.weight",
        "features.16.1.running_var",
    } <= theirs.keys()
    same(
        mobilenet_v3.to_ours(
            theirs
            | {"classifier.0.bias": np.ones(3), "features.0.1.num_batches_tracked": np.ones(())},
            shapes(mobile),
        ),
        mobile,
    )


def big_vision_names(tensors, heads):
    """timm's ViT with big_vision's names and layouts, the inverse of `to_timm`."""
    names = {
        "patch_embed.proj.weight": "embedding/kernel",
        "patch_embed.proj.bias": "embedding/bias",
        "cls_token": "cls",
        "pos_embed": "pos_embedding",
        "norm.weight": "Transformer/encoder_norm/scale",
        "norm.bias": "Transformer/encoder_norm/bias",
    }
    modules = {
        "norm1": "LayerNorm_0",
        "norm2": "LayerNorm_1",
        "mlp.fc1": "MlpBlock_0/Dense_0",
        "mlp.fc2": "MlpBlock_0/Dense_1",
    }
    converted = {}
    for name, tensor in tensors.items():
        if name in names:
            is_patches = name == "patch_embed.proj.weight"
            converted[names[name]] = tensor.transpose(2, 3, 1, 0) if is_patches else tensor
            continue
        _, layer, inner = name.split(".", 2)
        module, _, leaf = inner.rpartition(".")
        block = f"Transformer/encoderblock_{layer}"
        attention = f"{block}/MultiHeadDotProductAttention_0"
        is_weight = leaf == "weight"
        kernel = "kernel" if is_weight else "bias"
        if module == "attn.qkv":
            for part, third in zip(("query", "key", "value"), np.split(tensor, 3)):
                by_head = third.reshape(heads, -1)
                if is_weight:
                    by_head = third.T.reshape(third.shape[1], heads, -1)
                converted[f"{attention}/{part}/{kernel}"] = by_head
        elif module == "attn.proj":
            by_head = tensor.T.reshape(heads, -1, tensor.shape[0]) if is_weight else tensor
            converted[f"{attention}/out/{kernel}"] = by_head
        elif module.startswith("mlp"):
            converted[f"{block}/{modules[module]}/{kernel}"] = tensor.T
        else:
            converted[f"{block}/{modules[module]}/{'scale' if is_weight else 'bias'}"] = tensor
    return {name: np.ascontiguousarray(tensor) for name, tensor in converted.items()}


def timm_names(theirs):
    """torchvision's MobileNetV3-Large with timm's names, written block by block as in timm."""
    stages = [1, 2, 3, 4, 2, 3, 1]
    places = [(stage, block) for stage, count in enumerate(stages) for block in range(count)]
    renamed = {}
    for name, tensor in theirs.items():
        _, number, *rest = name.split(".")
        if number == "0":
            renamed[{"0": "conv_stem", "1": "bn1"}[rest[0]] + "." + rest[1]] = tensor
            continue
        prefix = "blocks.{}.{}".format(*places[int(number) - 1])
        if number == "16":
            renamed[f"{prefix}.{ {'0': 'conv', '1': 'bn1'}[rest[0]] }.{rest[1]}"] = tensor
            continue
        parts = sorted(
            {int(n.split(".")[3]) for n in theirs if n.startswith(f"features.{number}.block.")}
        )
        squeeze = next(
            (p for p in parts if f"features.{number}.block.{p}.fc1.weight" in theirs), None
        )
        convolutions = [p for p in parts if p != squeeze]
        place = int(rest[1])
        if place == squeeze:
            renamed[
                f"{prefix}.se.{ {'fc1': 'conv_reduce', 'fc2': 'conv_expand'}[rest[2]] }.{rest[3]}"
            ] = tensor
            continue
        at = convolutions.index(place)
        names = (
            ["conv_dw", "conv_pw"] if len(convolutions) == 2 else ["conv_pw", "conv_dw", "conv_pwl"]
        )
        renamed[f"{prefix}.{names[at] if rest[2] == '0' else f'bn{at + 1}'}.{rest[3]}"] = tensor
    return renamed


def test_timms_mobilenet_converts_like_torchvisions(mobile, tmp_path):
    theirs = timm_names(mobilenet_v3.from_ours(mobile)) | {
        "conv_head.weight": np.ones((2, 2)),
        "classifier.bias": np.ones(2),
    }
    assert "blocks.2.0.se.conv_reduce.weight" in theirs and "blocks.6.0.conv.weight" in theirs
    np.savez(tmp_path / "mobile.npz", **theirs)
    file = read_pretrained(tmp_path / "mobile.npz")
    assert (file.backbone, file.epsilon) == ("mobilenet_v3_large", 1e-5)
    same(file.parameters(MOBILE, shapes(mobile)), mobile)
    with pytest.raises(WeightsError, match="allowed: 'mobilenet_v3_large'"):
        file.parameters(VIT, shapes(mobile))


def test_a_backbone_is_read_from_a_complete_translator(vit, tmp_path):
    names = {
        "encoder.backbone." + name: value
        for name, value in {"cls_token": vit["class_token"], "pos_embed": vit["positions"]}.items()
    }
    from signvit_jax.weights import reference

    theirs = reference.from_ours({f"encoder/backbone/{path}": value for path, value in vit.items()})
    assert names.keys() <= theirs.keys()
    write_safetensors(
        tmp_path / "model.safetensors", theirs | {"ctc_head.0.bias": np.ones(3, np.float32)}
    )
    same(read_pretrained(tmp_path / "model.safetensors").parameters(VIT, shapes(vit)), vit)


def test_all_tensors_that_do_not_fit_are_listed(vit, tmp_path):
    theirs = timm_vit.from_ours(vit)
    del theirs["norm.bias"]
    theirs |= {
        "blocks.1.mlp.fc1.bias": np.ones(5, np.float32),
        "blocks.2.norm1.weight": np.ones(8, np.float32),
    }
    write_safetensors(tmp_path / "vit.safetensors", theirs)
    with pytest.raises(WeightsError) as caught:
        read_pretrained(tmp_path / "vit.safetensors").parameters(VIT, shapes(vit))
    for words in (
        "3 problems",
        "missing: norm.bias",
        "blocks.1.mlp.fc1.bias: shape (5,)",
        "left over: blocks.2.norm1.weight",
        "vit.safetensors",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.onnx", b"", "unknown kind of weights file"),
        ("a.safetensors", b"\xff" * 64, "cannot be read"),
        ("a.npz", b"PK\x03\x04", "cannot be read"),
        ("absent.npz", None, "cannot be read"),
    ],
)
def test_files_without_weights_are_refused_by_name(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        read_tensors(tmp_path / name)
    assert name in str(caught.value)


def test_an_array_of_pickled_objects_is_not_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(WeightsError, match="cannot be read"):
        read_tensors(tmp_path / "a.npz")


def test_an_unknown_layout_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", **{"layer1.conv.weight": np.ones(3)})
    with pytest.raises(WeightsError, match=r"layer1\.conv\.weight"):
        read_pretrained(tmp_path / "a.npz")
