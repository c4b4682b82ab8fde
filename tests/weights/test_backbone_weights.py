"""Backbones with the tensor names of other libraries: conversion, resizing and errors."""

import jax
import numpy as np
import pytest
from flax import nnx

from signvit_jax.backbones import mobilenet_v3 as mobilenet
from signvit_jax.backbones.vit import DenseViT
from signvit_jax.config.schema import EncoderConfig
from signvit_jax.layers.compute_policy import ComputePolicy
from signvit_jax.weights import mobilenet_v3, reference, timm_vit
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

    def make():
        return DenseViT(VIT, 8, policy=ComputePolicy(), rngs=nnx.Rngs(params=jax.random.key(0)))

    return random_like(nnx.eval_shape(make))


@pytest.fixture(scope="module")
def mobile():
    """Random parameters of a MobileNet of a tenth of the width."""
    spec = mobilenet.mobilenet_v3_large_spec(0.1)

    def make():
        rngs = nnx.Rngs(params=jax.random.key(0))
        return mobilenet.MobileNetV3(spec, policy=ComputePolicy(), rngs=rngs)

    return random_like(nnx.eval_shape(make))


def shapes(parameters):
    return {path: value.shape for path, value in parameters.items()}


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def test_a_timm_vit_converts_there_and_back(vit, tmp_path):
    theirs = timm_vit.from_ours(vit)
    assert theirs["blocks.1.attn.qkv.weight"].shape == (24, 8)
    assert theirs["patch_embed.proj.weight"].shape == (8, 3, 4, 4)
    with_classifier = theirs | {"head.weight": np.ones((3, 8), np.float32)}
    write_safetensors(tmp_path / "vit.safetensors", with_classifier)
    file = read_pretrained(tmp_path / "vit.safetensors")
    assert (file.backbone, file.epsilon) == ("dense_vit", 1e-6)
    same(file.parameters(VIT, shapes(vit)), vit)


@pytest.mark.parametrize("stacked", [False, True], ids=["separate blocks", "stacked"])
def test_a_big_vision_vit_converts_there_and_back(vit, tmp_path, stacked):
    theirs = big_vision_names(timm_vit.from_ours(vit), heads=2)
    query = "Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"
    assert theirs[query].shape == (8, 2, 4)
    if stacked:
        theirs = with_stacked_blocks(theirs)
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
    rows = np.linspace(0, 1, 4, dtype=np.float32)  # values rise from the top to the bottom
    ramp = np.broadcast_to(rows[:, None, None], (4, 4, 8)).reshape(1, 16, 8)
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
    ignored = {"classifier.0.bias": np.ones(3), "features.0.1.num_batches_tracked": np.ones(())}
    same(mobilenet_v3.to_ours(theirs | ignored, shapes(mobile)), mobile)


def with_stacked_blocks(tensors):
    """Return the tensors with those of both blocks stacked, as big_vision saves scanned layers."""
    prefix = "Transformer/encoderblock"
    stacked = {}
    for name, tensor in tensors.items():
        if name.startswith(f"{prefix}_0/"):
            inner = name.removeprefix(f"{prefix}_0/")
            stacked[f"{prefix}/{inner}"] = np.stack([tensor, tensors[f"{prefix}_1/{inner}"]])
        elif not name.startswith(f"{prefix}_1/"):
            stacked[name] = tensor
    return stacked


def big_vision_names(tensors, heads):
    """Return timm's ViT with big_vision's names and layouts, the inverse of `to_timm`."""
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
    """Return torchvision's MobileNetV3-Large with timm's names."""
    return {timm_name(name, theirs): tensor for name, tensor in theirs.items()}


def timm_name(name, all_names):
    """Return timm's name of a tensor of torchvision's MobileNetV3-Large."""
    _, number, *rest = name.split(".")
    if number == "0":
        module = {"0": "conv_stem", "1": "bn1"}[rest[0]]
        return f"{module}.{rest[1]}"
    blocks_of_stages = [1, 2, 3, 4, 2, 3, 1]
    stage, block = 0, int(number) - 1
    while block >= blocks_of_stages[stage]:
        block -= blocks_of_stages[stage]
        stage += 1
    prefix = f"blocks.{stage}.{block}"
    if number == "16":
        module = {"0": "conv", "1": "bn1"}[rest[0]]
        return f"{prefix}.{module}.{rest[1]}"
    # A block is a list of convolutions, each with a norm, and perhaps squeeze-and-excitation.
    inside = f"features.{number}.block."
    parts = sorted({int(other.split(".")[3]) for other in all_names if other.startswith(inside)})
    squeeze = [part for part in parts if f"{inside}{part}.fc1.weight" in all_names]
    convolutions = [part for part in parts if part not in squeeze]
    part = int(rest[1])
    if part in squeeze:
        module = {"fc1": "conv_reduce", "fc2": "conv_expand"}[rest[2]]
        return f"{prefix}.se.{module}.{rest[3]}"
    position = convolutions.index(part)
    kernels = ["conv_dw", "conv_pw"]
    if len(convolutions) == 3:
        kernels = ["conv_pw", "conv_dw", "conv_pwl"]
    module = kernels[position] if rest[2] == "0" else f"bn{position + 1}"
    return f"{prefix}.{module}.{rest[3]}"


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
    theirs = reference.from_ours({f"encoder/backbone/{path}": value for path, value in vit.items()})
    assert {"encoder.backbone.cls_token", "encoder.backbone.pos_embed"} <= theirs.keys()
    with_head = theirs | {"ctc_head.0.bias": np.ones(3, np.float32)}
    write_safetensors(tmp_path / "model.safetensors", with_head)
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
    for part in (
        "3 problems",
        "missing: norm.bias",
        "blocks.1.mlp.fc1.bias: shape (5,)",
        "left over: blocks.2.norm1.weight",
        "vit.safetensors",
    ):
        assert part in str(caught.value)


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
