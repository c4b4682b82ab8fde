"""Seconds for one clip through the reference's encoder on a CPU: ours and plain PyTorch in float32 and bfloat16, our ONNX export in INT8.

    python scripts/bench/encoder_cpu.py --runs=3 --torch_python=torch_environment/bin/python

Each is in a process of its own. All have the same weights; the largest difference of what they say is printed. They take turns; times are
medians, of the clock and of the processor: on a busy machine the second is the fairer. Where torch has no bfloat16 kernel for the processor a
clip takes minutes: `--torch_bfloat16_frames=1` gives it so many frames and multiplies. Weights are in the dtype of the computation.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
from flax import nnx
from jaxtyping import PyTree

from signvit_jax.config.schema import Config, from_mapping
from signvit_jax.exporting.onnx_files import write_onnx
from signvit_jax.layers.compute_policy import compute_policy
from signvit_jax.models.definition import ModelDefinition, parameters_of
from signvit_jax.models.images import image_format
from signvit_jax.models.translator import VideoEncoder
from signvit_jax.serving.export_dir import ExportFolder
from signvit_jax.serving.onnx_runtime import OnnxPrograms
from signvit_jax.weights.reference import flat_parameters, from_ours

TINY = {"output_dim": 64, "vit_hidden_dim": 64, "vit_num_heads": 2, "vit_mlp_dim": 128}


def sizes(size: str, layers: int, dtype: str) -> Config:
    """The reference, or a small model of its kind, with so many ViT blocks."""
    given = (
        {"model": {"encoder": {}}}
        if size == "full"
        else {"model": {"encoder": dict(TINY)}, "data": {"image_size": 64}}
    )
    given["model"]["encoder"]["vit_num_layers"] = layers
    return from_mapping(
        given | {"training": {"use_amp": dtype == "bfloat16", "scan_layers": False}}
    )


def forward_flops(config: Config) -> float:
    """Of one clip's matrix products in the ViT, which are all but a thousandth of the encoder's."""
    encoder, tokens = (
        config.model.encoder,
        1 + (config.data.image_size // config.model.encoder.patch_size) ** 2,
    )
    width, hidden = encoder.vit_hidden_dim, encoder.vit_mlp_dim
    block = 2 * tokens * width * (4 * width + 2 * hidden) + 4 * tokens**2 * width
    return config.data.num_frames * (
        encoder.vit_num_layers * block + 2 * tokens * 3 * encoder.patch_size**2 * width
    )


def serve(size: str, layers: int, dtype: str) -> None:
    """Ours, as `torch_encoder.py` is torch: one JSON line in, one out."""
    first, config = json.loads(sys.stdin.readline()), sizes(size, layers, dtype)
    encoder = jax.jit(
        lambda: VideoEncoder(
            config.model,
            image_format(config.data),
            policy=compute_policy(config),
            rngs=nnx.Rngs(params=jax.random.key(0)),
        )
    )()
    if dtype == "float32":
        np.savez(
            first["weights"],
            **from_ours(
                {
                    f"encoder/{path}": np.asarray(value)
                    for path, value in flat_parameters(encoder).items()
                }
            ),
        )
    graphdef, state = nnx.split(encoder)
    del encoder
    state = jax.tree.map_with_path(
        lambda path, leaf: leaf.astype(dtype) if "kernel" in jax.tree_util.keystr(path) else leaf,
        state,
    )
    video = jnp.asarray(np.load(first["video"]))
    lengths = jnp.full(1, video.shape[1])
    encode = (
        jax.jit(lambda state, video: nnx.merge(graphdef, state)(video, lengths).pooled)
        .lower(state, video)
        .compile()
    )
    print(
        json.dumps({"about": f"jax {jax.__version__}, {jax.devices()[0].device_kind}"}), flush=True
    )
    for _ in sys.stdin:
        start, worked = time.perf_counter(), time.process_time()
        pooled = jax.block_until_ready(encode(state, video))
        taken = {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - worked,
        }
        np.save(first["out"], np.asarray(pooled, np.float32))
        print(json.dumps(taken), flush=True)


def serve_onnx(size: str, layers: int) -> None:
    """The export, as `translate --backend=onnx` runs it; calibrated on the clip itself."""
    first, config = json.loads(sys.stdin.readline()), sizes(size, layers, "float32")
    definition = ModelDefinition(config, vocab_size=100)
    encoder = jax.jit(
        lambda: VideoEncoder(
            config.model,
            image_format(config.data),
            policy=compute_policy(config),
            rngs=nnx.Rngs(params=jax.random.key(0)),
        )
    )()
    params = jax.jit(definition.init)(0) | {"encoder": parameters_of(encoder)}
    video, lengths = np.load(first["video"]), np.full(1, config.data.num_frames, np.int32)
    folder = ExportFolder(Path(first["out"]).with_suffix(""))
    folder.path.mkdir()
    write_onnx(_Untrained(config, params), folder, [{"video": video, "frame_lengths": lengths}])
    del encoder, params
    programs = OnnxPrograms(folder, config)
    size_on_disk = sum(file.stat().st_size for file in folder.path.glob("backbone*"))
    print(
        json.dumps(
            {
                "about": f"onnxruntime {onnxruntime.__version__}, backbone of {size_on_disk / 1e6:,.0f} MB"
            }
        ),
        flush=True,
    )
    for _ in sys.stdin:
        start, worked = time.perf_counter(), time.process_time()
        (encoded,) = programs.encode(None, video, lengths)
        taken = {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - worked,
        }
        np.save(first["out"], np.asarray(encoded.pooled, np.float32))
        print(json.dumps(taken), flush=True)


class _Words(NamedTuple):
    vocab_size: int = 100


class _Untrained(NamedTuple):
    config: Config
    params: PyTree
    tokenizer: _Words = _Words()
    gloss_tokenizer: None = None


class Contender:
    """A process that encodes the clip each time it is told to."""

    def __init__(self, name: str, command: list[str], first: dict, frames: int):
        self.name, self.out, self.frames, self.whole = (
            name,
            Path(first["out"]),
            frames,
            first["sizes"]["data"]["num_frames"],
        )
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        print(f"{name}: {self._ask(first)['about']}", flush=True)

    def run(self, *, counts: bool) -> None:
        taken = self._ask({"frames": self.frames})
        if counts:
            self.seconds.append(taken["seconds"] * self.whole / self.frames)
            self.cpu_seconds.append(taken["cpu_seconds"] * self.whole / self.frames)

    def _ask(self, message: dict) -> dict:
        print(json.dumps(message), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


def contenders(args: argparse.Namespace, folder: str) -> list[Contender]:
    config, here = sizes(args.size, args.layers, "float32"), Path(__file__)
    shape = (1, config.data.num_frames, config.data.image_size, config.data.image_size, 3)
    np.save(f"{folder}/video.npy", np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    first = {
        "threads": len(os.sched_getaffinity(0)),
        "sizes": dataclasses.asdict(config),
        "weights": f"{folder}/weights.npz",
        "video": f"{folder}/video.npy",
    }
    found = []
    for dtype in ("float32", "bfloat16"):  # the first of them writes the weights that torch reads
        command = [
            sys.executable,
            str(here),
            f"--size={args.size}",
            f"--layers={args.layers}",
            f"--serve={dtype}",
        ]
        found.append(
            Contender(
                f"ours {dtype}",
                command,
                first | {"out": f"{folder}/ours_{dtype}.npy"},
                config.data.num_frames,
            )
        )
    command = [
        sys.executable,
        str(here),
        f"--size={args.size}",
        f"--layers={args.layers}",
        "--serve=onnx",
    ]
    found.append(
        Contender(
            "ours INT8, onnxruntime",
            command,
            first | {"out": f"{folder}/ours_onnx.npy"},
            config.data.num_frames,
        )
    )
    for dtype, frames in (
        ("float32", config.data.num_frames),
        ("bfloat16", args.torch_bfloat16_frames or config.data.num_frames),
    ):
        if args.torch_python:
            command = [args.torch_python, str(here.with_name("torch_encoder.py")), dtype]
            found.append(
                Contender(
                    f"torch {dtype}",
                    command,
                    first | {"out": f"{folder}/torch_{dtype}.npy"},
                    frames,
                )
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument(
        "--layers",
        type=int,
        default=24,
        help="blocks of the ViT; fewer where time is short, as all are alike",
    )
    parser.add_argument(
        "--torch_python", help="a Python that has torch and numpy; without it torch is left out"
    )
    parser.add_argument(
        "--torch_bfloat16_frames",
        type=int,
        default=0,
        help="frames that torch's bfloat16 run is given; 0 = the whole clip",
    )
    parser.add_argument("--serve", choices=("float32", "bfloat16", "onnx"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve == "onnx":
        serve_onnx(args.size, args.layers)
        return
    if args.serve:
        serve(args.size, args.layers, args.serve)
        return

    with tempfile.TemporaryDirectory() as folder:
        found = contenders(args, folder)
        for run in range(args.runs + 1):
            for contender in found:
                contender.run(counts=run > 0)  # the first warms up
        expected = np.load(found[0].out)
        flops, medians = (
            forward_flops(sizes(args.size, args.layers, "float32")),
            {c.name: statistics.median(c.seconds) for c in found},
        )
        cores = f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores"
        print(
            f"\n{args.layers} blocks, {flops / 1e12:.2f} TFLOP a clip; {cores}, load at the end {os.getloadavg()[0]:.1f}\n"
        )
        columns = (
            "",
            "median s",
            "best s",
            "GFLOP/s",
            "of torch float32",
            "of torch bfloat16",
            "CPU s",
            "difference from ours float32",
        )
        print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        for contender in found:
            median, said = medians[contender.name], np.load(contender.out)
            shares = [
                f"{median / medians[f'torch {dtype}']:.2f}" if args.torch_python else "–"
                for dtype in ("float32", "bfloat16")
            ]
            difference = (
                f"{np.abs(said - expected).max():.1e}"
                if contender.frames == contender.whole
                else "–"
            )
            print(
                f"| {contender.name} | {median:.2f} | {min(contender.seconds):.2f} | {flops / median / 1e9:.0f} | {' | '.join(shares)} "
                f"| {statistics.median(contender.cpu_seconds):.2f} | {difference} |"
            )
        for contender in found:
            contender.process.stdin.close()
            contender.process.wait()


if __name__ == "__main__":
    main()
