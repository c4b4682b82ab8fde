"""Speed of a run: clips and frames per second, waiting for data, MFU, and device memory."""

import time

import jax
from jax.sharding import Mesh

from signvit_jax.data.pipeline import Batch
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.planning.flops import clip_flops, peak_flops
from signvit_jax.planning.memory import GIB, peak_memory


class Stopwatch:
    """Speed since the last reading, over all processes."""

    def __init__(self, definition: ModelDefinition, mesh: Mesh):
        """`mesh`: what the steps run on. There is no MFU for devices whose peak is unknown."""
        self._definition = definition
        self._devices = mesh.size
        self._peak = peak_flops(mesh.devices.flat[0].device_kind)
        # Operations of a clip, by (frames, text length, frozen backbone).
        self._flops_of: dict[tuple[int, int, bool], float] = {}
        self.start()

    def start(self) -> None:
        """Reset all counts and the time."""
        self._start = time.perf_counter()
        self._waited = 0.0
        self._clips = 0
        self._frames = 0
        self._flops = 0.0

    def add_wait(self, seconds: float) -> None:
        """Add the time of waiting for a batch."""
        self._waited += seconds

    def add_batch(self, batch: Batch, *, frozen_backbone: bool) -> None:
        """Add a training batch, given this process's rows of it; all processes have as many."""
        processes = jax.process_count()
        self._clips += int((batch["weights"] > 0).sum()) * processes
        self._frames += int(batch["frame_lengths"].sum()) * processes
        if self._peak is not None:
            frames, text_length = batch["video"].shape[1], batch["tokens"].shape[1]
            per_clip = self._clip_flops(frames, text_length, frozen_backbone)
            self._flops += len(batch["video"]) * processes * per_clip

    def read(self) -> dict[str, float]:
        """Return the measurements, and start again.

        clips_per_second; frames_per_second (without padding); data_wait, a share of 0-1; mfu, 0-1,
        if the device's peak is known; peak_memory_gib since the start of the process, if the device
        reports it.
        """
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        figures = {
            "clips_per_second": self._clips / elapsed,
            "frames_per_second": self._frames / elapsed,
            "data_wait": self._waited / elapsed,
        }
        if self._peak is not None:
            figures["mfu"] = self._flops / elapsed / (self._peak * self._devices)
        if (used := peak_memory()) is not None:
            figures["peak_memory_gib"] = used / GIB
        self.start()
        return figures

    def _clip_flops(self, frames: int, text_length: int, frozen_backbone: bool) -> float:
        key = frames, text_length, frozen_backbone
        if key not in self._flops_of:
            flops = clip_flops(self._definition, frames, text_length)
            self._flops_of[key] = flops.training_frozen if frozen_backbone else flops.training
        return self._flops_of[key]
