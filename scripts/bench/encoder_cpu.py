"""Measure one clip through the reference's encoder on a CPU: ours, PyTorch's and our ONNX export.

    python scripts/bench/encoder_cpu.py --runs=3 --torch_python=torch_environment/bin/python

Our encoder and PyTorch's run in float32 and bfloat16, the export in INT8. Each runs in its own
process with the same weights, in the dtype of the computation; the largest difference of the
outputs is printed. They run in turn. Times are medians of wall time and of CPU time; on a busy
machine the CPU time is the better comparison.

If torch has no bfloat16 kernel for the processor, a clip takes minutes: with
`--torch_bfloat16_frames=1` it gets one frame, and the time is multiplied.
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
from signvit_jax.layers.compute_policy import ComputePolicy, compute_policy
from signvit_jax.models.definition import ModelDefinition, parameters_of
from signvit_jax.models.images import image_format
from signvit_jax.models.translator import VideoEncoder
from signvit_jax.serving.export_dir import ExportFolder
from signvit_jax.serving.onnx_runtime import OnnxPrograms
from signvit_jax.weights.reference import flat_parameters, from_ours

TINY = {"output_dim": 64, "vit_hidden_dim": 64, "vit_num_heads": 2, "vit_mlp_dim": 128}


def encoder_config(size: str, layers: int, dtype: str) -> Config:
    """Return the config of the reference, or of a small model, with `layers` ViT blocks."""
    values = {"model": {"encoder": {}}}
    if size == "tiny":
        values = {"model": {"encoder": dict(TINY)}, "data": {"image_size": 64}}
    values["model"]["encoder"]["vit_num_layers"] = layers
    return from_mapping(
        values | {"training": {"use_amp": dtype == "bfloat16", "scan_layers": False}}
    )


def forward_flops(config: Config) -> float:
    """Return the FLOPs of one clip's matrix products in the ViT, 99.9 % of the encoder's."""
    encoder = config.model.encoder
    tokens = 1 + (config.data.image_size // encoder.patch_size) ** 2
    width, hidden = encoder.vit_hidden_dim, encoder.vit_mlp_dim
    block = 2 * tokens * width * (4 * width + 2 * hidden) + 4 * tokens**2 * width
    return config.data.num_frames * (
        encoder.vit_num_layers * block + 2 * tokens * 3 * encoder.patch_size**2 * width
    )


def serve(size: str, layers: int, dtype: str) -> None:
    """Run our encoder in this process, with the same protocol as `torch_encoder.py`.

    The first line of standard input names the files to use; each further line requests one run.
    The reply to each line is one line of JSON.
    """
    first = json.loads(sys.stdin.readline())
    config = encoder_config(size, layers, dtype)
    encoder = jax.jit(
        lambda: VideoEncoder(
            config.model,
            image_format(config.data),
            policy=compute_policy(config),
            rngs=nnx.Rngs(params=jax.random.key(0)),
        )
    )()
    if dtype == "float32":
        ours = {
            f"encoder/{path}": np.asarray(value) for path, value in flat_parameters(encoder).items()
        }
        np.savez(first["weights"], allow_pickle=False, **from_ours(ours))
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
        start, cpu_start = time.perf_counter(), time.process_time()
        pooled = jax.block_until_ready(encode(state, video))
        times = {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - cpu_start,
        }
        np.save(first["out"], np.asarray(pooled, np.float32))
        print(json.dumps(times), flush=True)


def serve_onnx(size: str, layers: int) -> None:
    """Run the export as `translate --backend=onnx` does, calibrated on the clip itself."""
    first = json.loads(sys.stdin.readline())
    config = encoder_config(size, layers, "float32")
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
    about = f"onnxruntime {onnxruntime.__version__}, backbone of {size_on_disk / 1e6:,.0f} MB"
    print(json.dumps({"about": about}), flush=True)
    on_device = jnp.asarray(lengths)
    for _ in sys.stdin:
        start, cpu_start = time.perf_counter(), time.process_time()
        (encoded,) = programs.encode(None, video, on_device)
        times = {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - cpu_start,
        }
        np.save(first["out"], np.asarray(encoded.pooled, np.float32))
        print(json.dumps(times), flush=True)


class _Untrained(NamedTuple):
    config: Config
    params: PyTree

    def define(self, policy: ComputePolicy) -> ModelDefinition:
        return ModelDefinition(self.config, vocab_size=100, policy=policy)


class Encoder:
    """A process that encodes the clip on request."""

    def __init__(self, name: str, command: list[str], first: dict, frames: int):
        self.name = name
        self.out = Path(first["out"])
        self.frames = frames
        self.clip_frames = first["config"]["data"]["num_frames"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdin is not None and self.process.stdout is not None  # by PIPE
        self.requests, self.replies = self.process.stdin, self.process.stdout
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        print(f"{name}: {self._ask(first)['about']}", flush=True)

    def run(self, *, counts: bool) -> None:
        """Encode once; add the time to the results if it `counts`, which a warm-up does not."""
        times = self._ask({"frames": self.frames})
        if counts:
            self.seconds.append(times["seconds"] * self.clip_frames / self.frames)
            self.cpu_seconds.append(times["cpu_seconds"] * self.clip_frames / self.frames)

    def _ask(self, message: dict) -> dict:
        print(json.dumps(message), file=self.requests, flush=True)
        return json.loads(self.replies.readline())


def start_encoders(args: argparse.Namespace, folder: str) -> list[Encoder]:
    config = encoder_config(args.size, args.layers, "float32")
    here = Path(__file__)
    frames = config.data.num_frames
    shape = (1, config.data.num_frames, config.data.image_size, config.data.image_size, 3)
    np.save(f"{folder}/video.npy", np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    first = {
        "threads": len(os.sched_getaffinity(0)),
        "config": dataclasses.asdict(config),
        "weights": f"{folder}/weights.npz",
        "video": f"{folder}/video.npy",
    }
    ours = [sys.executable, str(here), f"--size={args.size}", f"--layers={args.layers}"]
    encoders = []
    for name, kind in (  # the first one writes the weights that torch reads
        ("ours float32", "float32"),
        ("ours bfloat16", "bfloat16"),
        ("ours INT8, onnxruntime", "onnx"),
    ):
        request = first | {"out": f"{folder}/ours_{kind}.npy"}
        encoders.append(Encoder(name, [*ours, f"--serve={kind}"], request, frames))
    if args.torch_python:
        for dtype, count in (("float32", frames), ("bfloat16", args.torch_bfloat16_frames)):
            command = [args.torch_python, str(here.with_name("torch_encoder.py")), dtype]
            request = first | {"out": f"{folder}/torch_{dtype}.npy"}
            encoders.append(Encoder(f"torch {dtype}", command, request, count or frames))
    return encoders


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument(
        "--layers",
        type=int,
        default=24,
        help="blocks of the ViT; fewer save time, as all are alike",
    )
    parser.add_argument("--torch_python", help="a Python with torch and numpy; default: no torch")
    parser.add_argument(
        "--torch_bfloat16_frames",
        type=int,
        default=0,
        help="number of frames for torch in bfloat16; 0 = all frames of the clip",
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
        encoders = start_encoders(args, folder)
        for run in range(args.runs + 1):
            for encoder in encoders:
                encoder.run(counts=run > 0)  # the first one is the warm-up
        expected = np.load(encoders[0].out)
        flops = forward_flops(encoder_config(args.size, args.layers, "float32"))
        medians = {encoder.name: statistics.median(encoder.seconds) for encoder in encoders}
        cores = f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores"
        print(
            f"\n{args.layers} blocks, {flops / 1e12:.2f} TFLOP per clip; {cores}, "
            f"load at the end {os.getloadavg()[0]:.1f}\n"
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
        for encoder in encoders:
            median = medians[encoder.name]
            shares = [
                f"{median / medians[f'torch {dtype}']:.2f}" if args.torch_python else "–"
                for dtype in ("float32", "bfloat16")
            ]
            difference = "–"
            if encoder.frames == encoder.clip_frames:
                difference = f"{np.abs(np.load(encoder.out) - expected).max():.1e}"
            print(
                f"| {encoder.name} | {median:.2f} | {min(encoder.seconds):.2f} "
                f"| {flops / median / 1e9:.0f} | {' | '.join(shares)} "
                f"| {statistics.median(encoder.cpu_seconds):.2f} | {difference} |"
            )
        for encoder in encoders:
            encoder.requests.close()
            encoder.process.wait()


if __name__ == "__main__":
    main()
