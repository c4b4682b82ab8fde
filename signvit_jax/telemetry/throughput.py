"""How fast a run is: clips and frames a second, waiting for data, the share of the devices' arithmetic that is used, and their memory."""

import time

import jax

from signvit_jax.data.pipeline import Batch
from signvit_jax.models.definition import ModelDefinition
from signvit_jax.planning.flops import clip_flops, peak_flops
from signvit_jax.planning.memory import GIB, peak_memory


class Stopwatch:
    """Figures since the last reading, over all processes. `peak` is operations a second of one device; None: nothing is said of MFU."""

    def __init__(self, definition: ModelDefinition, peak: float | None = None):
        self._definition, self._peak = definition, peak or peak_flops(jax.devices()[0].device_kind)
        self._flops_of: dict[
            tuple[int, int, bool], float
        ] = {}  # of a clip, by frames, text length, frozen backbone
        self.start()

    def start(self) -> None:
        """Drops what was counted, and the time."""
        self._start, self._waited, self._clips, self._frames, self._flops = (
            time.perf_counter(),
            0.0,
            0,
            0,
            0.0,
        )

    def waited(self, seconds: float) -> None:
        """For a batch."""
        self._waited += seconds

    def counted(self, batch: Batch, *, frozen_backbone: bool) -> None:
        """This process's rows of a training batch; the others have as many."""
        processes = jax.process_count()
        self._clips += int((batch["weights"] > 0).sum()) * processes
        self._frames += int(batch["frame_lengths"].sum()) * processes
        if self._peak is not None:
            self._flops += (
                len(batch["video"])
                * processes
                * self._clip_flops(
                    batch["video"].shape[1], batch["tokens"].shape[1], frozen_backbone
                )
            )

    def read(self) -> dict[str, float]:
        """clips_per_second, frames_per_second (of signing, not of padding), data_wait (a share, 0-1); where the device is known mfu (0-1), where it
        says so peak_memory_gib (since the start of the process).
        """
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        figures = {
            "clips_per_second": self._clips / elapsed,
            "frames_per_second": self._frames / elapsed,
            "data_wait": self._waited / elapsed,
        }
        if self._peak is not None:
            figures["mfu"] = self._flops / elapsed / (self._peak * jax.device_count())
        if (used := peak_memory()) is not None:
            figures["peak_memory_gib"] = used / GIB
        self.start()
        return figures

    def _clip_flops(self, frames: int, text_length: int, frozen_backbone: bool) -> float:
        key = frames, text_length, frozen_backbone
        if key not in self._flops_of:
            self._flops_of[key] = clip_flops(self._definition, frames, text_length).training(
                frozen_backbone=frozen_backbone
            )
        return self._flops_of[key]
