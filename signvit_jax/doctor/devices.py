"""Checks of accelerators: what JAX uses, what the system has, and whether cuDNN's attention works.

`probe_devices` and `probe_attention` start JAX and must run in a separate process, so that a driver
that hangs or crashes ends only that process.
"""

import dataclasses
import os
import re
import time
from pathlib import Path

from signvit_jax.config.schema import Config
from signvit_jax.doctor.findings import DeviceFacts, Finding, Request, gib
from signvit_jax.doctor.software import installed_versions

_GPUS = ("gpu", "cuda", "rocm")
_TOLERANCE = 0.02  # relative error of a product in bfloat16, which has 8 bits of precision
_SIZE = 256  # rows and columns of the matrices that are multiplied
# The oldest driver for each release of CUDA, as JAX's installation guide and NVIDIA's tables say.
_OLDEST_DRIVER = {"cuda13": 580, "cuda12": 525}
_NVIDIA, _AMD, _GOOGLE = "0x10de", "0x1002", "0x1ae0"
_DISPLAY = "0x03"  # class of a PCI device: display and 3D controllers
# Libraries that jaxlib must find in its own packages.
_CUDA_LIBRARIES = ("libcudnn", "libcublas", "libcudart", "libcusolver", "libnccl")


def probe_devices(request: Request) -> DeviceFacts:
    """Ask JAX for its devices and multiply two matrices on the first."""
    del request
    import jax
    import jax.numpy as jnp
    import numpy as np

    from signvit_jax.cli.jax_setup import set_up_jax

    set_up_jax()
    try:
        devices = jax.local_devices()
    except Exception as error:  # a plugin that is not there ends in an AssertionError
        message = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if chosen := os.environ.get("JAX_PLATFORMS"):
            message += f"; JAX_PLATFORMS={chosen}"
        return DeviceFacts(jax_version=jax.__version__, error=message)
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((_SIZE, _SIZE)).astype(jnp.bfloat16) for _ in range(2))
    multiply = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32))
    start = time.perf_counter()
    np.asarray(multiply(a, b))  # compiles, and waits for the result
    compiled = time.perf_counter()
    product = np.asarray(multiply(a, b))
    end = time.perf_counter()
    expected = a.astype(np.float32) @ b.astype(np.float32)
    memory = devices[0].memory_stats() or {}
    return DeviceFacts(
        platform=devices[0].platform,
        kinds=tuple(device.device_kind for device in devices),
        memory=int(memory.get("bytes_limit", 0)),
        capability=str(getattr(devices[0], "compute_capability", "")),
        jax_version=jax.__version__,
        difference=float(np.abs(product - expected).max() / np.abs(expected).max()),
        first_ms=1e3 * (compiled - start),
        next_ms=1e3 * (end - compiled),
    )


def check_devices(facts: DeviceFacts) -> Finding:
    if facts.error:
        return Finding(
            "devices",
            "bad",
            f"JAX {facts.jax_version} has no device: {facts.error}",
            "unset JAX_PLATFORMS, or set it to a platform that is here: JAX_PLATFORMS=cpu",
        )
    kinds = {kind: facts.kinds.count(kind) for kind in facts.kinds}
    listed = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
    memory = f", {gib(facts.memory)} each for a process" if facts.memory else ""
    found = (
        f"JAX {facts.jax_version}: {listed} ({facts.platform}){memory}; a product of matrices of "
        f"{_SIZE} x {_SIZE} in bfloat16: {facts.first_ms:.0f} ms with compiling, then "
        f"{facts.next_ms:.1f} ms"
    )
    if not facts.difference < _TOLERANCE:  # also NaN
        return Finding(
            "devices",
            "bad",
            f"{found}; it differs from NumPy's by {facts.difference:.2g} of its largest entry "
            f"(allowed: {_TOLERANCE:g})",
            "the device computes wrongly: look at its errors (nvidia-smi -q -d ECC, dmesg), and "
            "train on another one",
        )
    return Finding("devices", "ok", found)


@dataclasses.dataclass(frozen=True)
class AcceleratorFacts:
    """The accelerators that the system shows, and those that JAX uses.

    `driver`: version of NVIDIA's driver, "" if it is not loaded. `nvidia`, `amd`, `tpu`: devices on
    the PCI bus. `device_files`: whether /dev has the files of NVIDIA's driver. `plugins`: packages
    of JAX for accelerators, and their versions by name. `shadows`: libraries of CUDA in
    LD_LIBRARY_PATH, which are loaded instead of JAX's own. `jax_platform`: "" if JAX was not asked.
    """

    driver: str
    nvidia: int
    amd: int
    tpu: int
    device_files: bool
    plugins: dict[str, str]
    shadows: tuple[str, ...]
    jax_platforms: str
    visible: str | None  # CUDA_VISIBLE_DEVICES
    jax_platform: str
    jax_devices: int
    in_container: bool


def probe_accelerators(request: Request, root: Path = Path("/")) -> AcceleratorFacts:
    """Look for accelerators by files of the kernel and by installed packages, without JAX."""
    vendors = _pci_vendors(root)
    devices = request.devices or DeviceFacts()
    names = ("jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu", "jax-rocm7-plugin")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return AcceleratorFacts(
        driver=_driver_version(root),
        nvidia=max(vendors.count(_NVIDIA), len([*root.glob("dev/nvidia[0-9]*")])),
        amd=vendors.count(_AMD),
        tpu=max(vendors.count(_GOOGLE), len([*root.glob("dev/accel[0-9]*")])),
        device_files=any((root / name).exists() for name in ("dev/nvidiactl", "dev/dxg")),
        plugins=installed_versions(names),
        shadows=tuple(_shadowing_libraries(os.environ.get("LD_LIBRARY_PATH", ""))),
        jax_platforms=os.environ.get("JAX_PLATFORMS", ""),
        visible=visible,
        jax_platform=devices.platform,
        jax_devices=len(devices.kinds),
        in_container=any((root / name).exists() for name in (".dockerenv", "run/.containerenv")),
    )


def _pci_vendors(root: Path) -> list[str]:
    """Vendors of the display controllers, and of Google's devices of any class."""
    vendors = []
    for device in root.glob("sys/bus/pci/devices/*"):
        try:
            vendor = (device / "vendor").read_text().strip()
            if vendor == _GOOGLE or (device / "class").read_text().startswith(_DISPLAY):
                vendors.append(vendor)
        except OSError:
            continue  # a device that has gone, or that may not be read
    return vendors


def _driver_version(root: Path) -> str:
    try:
        text = (root / "proc/driver/nvidia/version").read_text()
    except OSError:
        return ""
    found = re.search(r"\b(\d{3,}\.\d+(\.\d+)?)\b", text)
    return found[1] if found else ""


def _shadowing_libraries(search_path: str) -> list[str]:
    """Libraries of CUDA that the loader would find before those of JAX's packages."""
    return [
        str(library)
        for folder in filter(None, search_path.split(":"))
        for name in _CUDA_LIBRARIES
        for library in sorted(Path(folder).glob(f"{name}.so*"))[:1]
    ]


def check_accelerators(facts: AcceleratorFacts) -> Finding:
    """Say why JAX does not use an accelerator that the system has."""
    if facts.jax_platform in _GPUS or facts.jax_platform == "tpu":
        idle = facts.nvidia - facts.jax_devices if facts.jax_platform in _GPUS else 0
        found = f"JAX uses {facts.jax_devices} of them" + (
            f"; driver {facts.driver}" if facts.driver else ""
        )
        if idle > 0 and facts.visible is None:
            return Finding(
                "accelerators",
                "note",
                f"{found}; the system has {facts.nvidia}",
                "look at nvidia-smi: one may be broken, in another mode or not allowed for you",
            )
        return Finding("accelerators", "ok", found)
    if facts.nvidia or facts.driver:
        return _unused_nvidia(facts)
    if facts.tpu:
        found = f"{facts.tpu} TPU chips here" + _platform_in_use(facts)
        if "libtpu" not in facts.plugins:
            return _unused(facts, f"{found}, and no libtpu", "pip install -U 'jax[tpu]'")
        return _unused(
            facts,
            found,
            "end other processes that use the TPU (sudo fuser -v /dev/accel* /dev/vfio/*)",
        )
    if facts.amd:
        return _unused(
            facts,
            f"{facts.amd} GPUs of AMD here" + _platform_in_use(facts),
            "JAX needs AMD's plugin (jax-rocm7-plugin, jax-rocm7-pjrt); nobody has run this "
            "package on one",
        )
    return Finding(
        "accelerators",
        "ok",
        "the system shows no GPU and no TPU" + (" to this container" if facts.in_container else ""),
        "start the container with them: docker run --gpus all" if facts.in_container else "",
    )


def _platform_in_use(facts: AcceleratorFacts) -> str:
    return f"; JAX computes on {facts.jax_platform}" if facts.jax_platform else ""


def _unused(facts: AcceleratorFacts, found: str, advice: str) -> Finding:
    """The finding for a device that JAX does not use; only a note if JAX_PLATFORMS excludes it."""
    chosen = facts.jax_platforms
    if chosen and not set(chosen.lower().split(",")) & {*_GPUS, "tpu"}:
        return Finding(
            "accelerators",
            "note",
            f"{found}: JAX_PLATFORMS={chosen} says so",
            "unset JAX_PLATFORMS",
        )
    level = "bad" if facts.jax_platform or not facts.plugins else "ok"
    return Finding("accelerators", level, found, advice)


def _unused_nvidia(facts: AcceleratorFacts) -> Finding:
    count = f"{facts.nvidia} GPUs of NVIDIA" if facts.nvidia != 1 else "a GPU of NVIDIA"
    found = (
        f"{count} here"
        + (f", driver {facts.driver}" if facts.driver else "")
        + _platform_in_use(facts)
    )
    if facts.visible is not None and facts.visible.strip() in ("", "-1"):
        return _unused(
            facts,
            f"{found}; CUDA_VISIBLE_DEVICES={facts.visible!r} hides them",
            "unset CUDA_VISIBLE_DEVICES, or give numbers: CUDA_VISIBLE_DEVICES=0",
        )
    if not facts.driver and not facts.device_files:
        where = "start the container with --gpus all" if facts.in_container else "install it"
        return _unused(facts, f"{found}, and no driver is loaded", f"NVIDIA's driver: {where}")
    major = int(facts.driver.partition(".")[0]) if facts.driver else 0
    plugin = next((name for name in facts.plugins if "cuda" in name), "")
    if not plugin:
        extra = "cuda12" if 0 < major < _OLDEST_DRIVER["cuda13"] else "cuda"
        return _unused(
            facts, f"{found}, and JAX has no plugin for them", f"pip install 'signvit-jax[{extra}]'"
        )
    cuda = "cuda13" if "cuda13" in plugin else "cuda12"
    if 0 < major < _OLDEST_DRIVER[cuda]:
        other = (
            "" if cuda == "cuda12" else f", or pip install 'signvit-jax[cuda12]' without {plugin}"
        )
        return _unused(
            facts,
            f"{found}; {plugin} needs driver {_OLDEST_DRIVER[cuda]} or newer",
            f"a newer driver{other}",
        )
    if facts.shadows:
        return _unused(
            facts,
            f"{found}; LD_LIBRARY_PATH has {', '.join(facts.shadows[:3])}, found before those of "
            f"{plugin}",
            "unset LD_LIBRARY_PATH",
        )
    return _unused(
        facts,
        f"{found}; {plugin} is installed",
        'python -c "import jax; jax.devices()" shows why; most often parts of '
        f"jax[{cuda}] are missing: pip install -U 'jax[{cuda}]'",
    )


@dataclasses.dataclass(frozen=True)
class AttentionFacts:
    """The result of fused attention. `chosen`: the implementation that `auto` takes on the device.

    `difference`: the largest one between the gradients of the fused and the plain implementation,
    relative to the largest entry. `error`: of the compiler or of the kernel; "" if there was none.
    """

    platform: str
    chosen: str = ""
    tokens: int = 0
    heads: int = 0
    head_width: int = 0
    difference: float = 0.0
    seconds: float = 0.0
    error: str = ""


def probe_attention(request: Request) -> AttentionFacts:
    """Compile and run fused attention, forward and backward, in the shape of the config's ViT."""
    devices = request.devices
    if devices is not None and devices.platform not in _GPUS:
        return AttentionFacts(devices.platform, error=devices.error)
    import jax
    import jax.numpy as jnp

    from signvit_jax.cli.jax_setup import set_up_jax
    from signvit_jax.layers.attention import attend, fastest_attention

    set_up_jax()
    tokens, heads, width = attention_shape(request.config or Config())
    platform = jax.devices()[0].platform
    chosen = fastest_attention(jnp.bfloat16, width, plain=True)
    facts = AttentionFacts(platform, chosen, tokens, heads, width)
    if chosen != "cudnn":
        return facts
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = [jax.random.normal(key, (2, tokens, heads, width), jnp.bfloat16) for key in keys]

    def gradients(implementation: str) -> list[jax.Array]:
        def loss(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
            attended = attend(query, key, value, implementation=implementation)
            return jnp.sum(attended.astype(jnp.float32) ** 2)

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*inputs)

    start = time.perf_counter()
    try:
        fused = jax.block_until_ready(gradients("cudnn"))
    except Exception as error:  # XLA and cuDNN raise several types
        message = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return dataclasses.replace(facts, error=message[:300])
    seconds = time.perf_counter() - start
    plain = gradients("xla")
    differences = [
        float(jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)).max() / jnp.abs(b).max())
        for a, b in zip(fused, plain)
    ]
    return dataclasses.replace(facts, difference=max(differences), seconds=seconds)


def attention_shape(config: Config) -> tuple[int, int, int]:
    """Tokens of a frame, heads and the width of a head in the ViT of a config."""
    encoder = config.model.encoder
    side = (encoder.view_size or config.data.image_size) // encoder.patch_size
    return side * side + 1, encoder.vit_num_heads, encoder.vit_hidden_dim // encoder.vit_num_heads


def check_attention(facts: AttentionFacts) -> Finding:
    if facts.platform not in _GPUS and facts.error:
        return Finding("attention", "skipped", "JAX has no device")
    if facts.platform not in _GPUS:
        return Finding("attention", "ok", "cuDNN's attention is for GPUs of NVIDIA; none is used")
    shape = f"{facts.tokens} tokens, {facts.heads} heads of width {facts.head_width}"
    if facts.chosen != "cudnn":
        return Finding(
            "attention",
            "note",
            f"{shape}: this GPU or this width has no fused attention; `auto` takes "
            f"{facts.chosen!r}, which is slower",
            "a GPU since Ampere, and heads whose width is a multiple of 8 up to 128",
        )
    if facts.error:
        return Finding(
            "attention",
            "bad",
            f"{shape}: cuDNN's attention fails: {facts.error}",
            "--config.model.encoder.attention=recompute, or install cuDNN again: "
            "pip install -U nvidia-cudnn-cu13 (or -cu12)",
        )
    if not facts.difference < _TOLERANCE * 2:  # also NaN
        return Finding(
            "attention",
            "bad",
            f"{shape}: gradients of cuDNN's attention differ from XLA's by {facts.difference:.2g} "
            "of their largest entry",
            "--config.model.encoder.attention=recompute, and another release of cuDNN",
        )
    return Finding(
        "attention",
        "ok",
        f"{shape}: cuDNN's attention compiles and agrees with XLA's to {facts.difference:.1g} "
        f"({facts.seconds:.1f} s)",
    )
