"""The kernels of a compiled program: their operations and the bytes that they move.

A kernel is an instruction that the device executes on its own: a fusion, a product, a copy, a
library's kernel. Its operations are those of matrix products, convolutions and attention. Its bytes
are those of its operands and results in the device's main memory. If it reads only a slice of an
operand, or writes only a slice of a result, only the slice counts.
"""

import collections
import dataclasses
import math
import re

from signvit_jax.hlo.text import Computation, Instruction, Program

# Instructions that start no kernel: they name, group or wait for arrays.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "call"),
    *("while", "conditional", "opt-barrier", "optimization-barrier", "add-dependency", "domain"),
    *("partition-id", "replica-id", "async-start", "async-update"),
}
_FUSIONS = ("fusion", "fusion-start")
_COLLECTIVE = re.compile(
    r"(ragged-)?(all-gather|all-reduce|reduce-scatter|all-to-all|collective-[a-z]+)"
)
_SLICING = ("dynamic-slice", "slice", "gather")
_PRODUCT_TARGETS = ("__cublas$gemm", "__cublas$lt$matmul", "__triton$gemm")
# Custom calls that compute nothing worth counting.
_BOOKKEEPING = re.compile(
    r"AllocateBuffer|ConcatBitcast|SliceToDynamic|PadToStatic|MoveToHost|MoveToDevice|Sharding|"
    r"annotate_device_placement|AssumeGatherIndicesInBound|TopK|__cub\$|LayoutConstraint"
)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel, with the operations and bytes of one launch and the launches of one step."""

    instruction: Instruction
    launches: int
    flops: float
    bytes: int
    is_collective: bool


@dataclasses.dataclass(frozen=True)
class Kernels:
    """All kernels of a program.

    `uncounted` has the targets of custom calls whose operations are not known, and their launches.
    """

    kernels: list[Kernel]
    uncounted: dict[str, int]

    @property
    def flops(self) -> float:
        """Operations of one step on one device."""
        return sum(kernel.launches * kernel.flops for kernel in self.kernels)

    @property
    def bytes(self) -> int:
        """Bytes that one step moves in the main memory of one device."""
        return sum(kernel.launches * kernel.bytes for kernel in self.kernels)

    @property
    def launches(self) -> int:
        return sum(kernel.launches for kernel in self.kernels)


def kernels_of(program: Program) -> Kernels:
    """Return the kernels of a compiled program."""
    kernels, uncounted = [], collections.Counter[str]()
    for launches, computation, instruction in program.executed():
        if launches == 0 or _is_free(instruction):
            continue
        flops = _flops(program, computation, instruction)
        if flops is None:
            uncounted[instruction.target] += launches
        kernel = Kernel(
            instruction,
            launches,
            flops or 0.0,
            _bytes(program, computation, instruction),
            bool(_COLLECTIVE.match(instruction.operation)),
        )
        kernels.append(kernel)
    return Kernels(kernels, dict(uncounted))


def _is_free(instruction: Instruction) -> bool:
    # "-done" ends an asynchronous operation, whose start is counted.
    return instruction.operation in _FREE or instruction.operation.endswith("-done")


def _flops(program: Program, computation: Computation, instruction: Instruction) -> float | None:
    """Return the operations of an instruction; None for an unknown custom call."""
    if instruction.operation in _FUSIONS:
        total = 0.0
        for name in instruction.called("calls"):
            body = program.computations[name]
            total += sum(_flops(program, body, part) or 0.0 for part in body.values())
        return total
    if instruction.operation == "dot":
        return _product_flops(computation, instruction, "lhs_contracting_dims")
    if instruction.operation == "convolution":
        return _convolution_flops(computation, instruction)
    if instruction.operation == "custom-call":
        return _custom_call_flops(computation, instruction)
    return 0.0


def _product_flops(computation: Computation, product: Instruction, axes: str) -> float:
    left = computation[product.operands[0]].arrays[0].shape
    contracted = product.integers(axes)
    if not contracted:  # cuBLAS has them in its JSON
        match = re.search(r'"lhs_contracting_dimensions":\s*\[([^\]]*)\]', product.attributes)
        contracted = [int(axis) for axis in re.findall(r"\d+", match[1])] if match else []
    return 2.0 * product.arrays[0].size * math.prod(left[axis] for axis in contracted)


def _custom_call_flops(computation: Computation, call: Instruction) -> float | None:
    target = call.target
    if target.startswith(_PRODUCT_TARGETS):
        return _product_flops(computation, call, "lhs_contracting_dims")
    if "fmha" in target:
        return _attention_flops(computation, call)
    if target.startswith("__cudnn$conv"):
        return _cudnn_convolution_flops(computation, call)
    return 0.0 if _BOOKKEEPING.search(target) else None


def _attention_flops(computation: Computation, call: Instruction) -> float | None:
    """Operations of cuDNN's fused attention: two products, and five in the backward pass."""
    shape = re.search(
        r'"intermediate_tensor_shape":\s*\{.*?"dimensions":\s*\[([^\]]*)\]', call.attributes
    )
    if shape is None:
        return None
    scores = math.prod(int(size) for size in re.findall(r"\d+", shape[1]))
    head_width = computation[call.operands[0]].arrays[0].shape[-1]
    return (10.0 if "Backward" in call.target else 4.0) * scores * head_width


def _cudnn_convolution_flops(computation: Computation, call: Instruction) -> float | None:
    """Operations of cuDNN's convolutions, padding included.

    Each output of the forward convolution multiplies the kernel's entries of one output feature.
    Each backward pass needs as many products.
    """
    labels = re.search(r"dim_labels=\w+_(\w+)->", call.attributes)
    if labels is None:
        return None
    first, second = (computation[name].arrays[0] for name in call.operands[:2])
    result = call.arrays[0]
    if "BackwardInput" in call.target:
        outputs, kernel = first, second
    elif "BackwardFilter" in call.target:
        outputs, kernel = second, result
    else:
        outputs, kernel = result, second
    features = kernel.shape[labels[1].index("o")]
    return 2.0 * outputs.size * kernel.size / features


def _convolution_flops(computation: Computation, convolution: Instruction) -> float:
    """Operations of a convolution, without products with zeros of padding or dilation.

    TPU programs write matrix products as convolutions, and batches of them as dilated ones.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", convolution.attributes)
    if labels is None:
        raise ValueError(f"a convolution without dim_labels: {convolution.name}")
    images = computation[convolution.operands[0]].arrays[0].shape
    kernel = computation[convolution.operands[1]].arrays[0].shape
    outputs = convolution.arrays[0].shape
    window = _window(convolution.attributes)
    positions = 1
    for axis, name in enumerate(sorted(set(labels[1]) - {"b", "f"})):
        positions *= _valid_positions(
            images[labels[1].index(name)],
            kernel[labels[2].index(name)],
            outputs[labels[3].index(name)],
            {key: values[axis] for key, values in window.items()},
        )
    groups = re.search(r"batch_group_count=(\d+)", convolution.attributes)
    batch = images[labels[1].index("b")] // (int(groups[1]) if groups else 1)
    features = kernel[labels[2].index("i")] * kernel[labels[2].index("o")]
    return 2.0 * batch * features * positions


def _window(attributes: str) -> dict[str, list[str]]:
    match = re.search(r"window=\{([^}]*)\}", attributes)
    pairs = [item.split("=") for item in match[1].split()] if match else []
    return {name: values.split("x") for name, values in pairs}


def _valid_positions(image: int, kernel: int, outputs: int, window: dict[str, str]) -> int:
    """Number of (output, kernel position) pairs of one axis that meet an entry of the image."""
    stride = int(window.get("stride", 1))
    padding = int(window.get("pad", "0_0").split("_")[0])
    image_dilation = int(window.get("lhs_dilate", 1))
    kernel_dilation = int(window.get("rhs_dilate", 1))
    end = (image - 1) * image_dilation
    count = 0
    for output in range(outputs):
        first = output * stride - padding
        for place in range(first, first + kernel * kernel_dilation, kernel_dilation):
            count += 0 <= place <= end and place % image_dilation == 0
    return count


def _bytes(program: Program, computation: Computation, instruction: Instruction) -> int:
    """Return the bytes that an instruction reads and writes in main memory."""
    operation = instruction.operation
    operands = [computation[name] for name in instruction.operands if name in computation]
    read = [operand.main_bytes for operand in operands]
    written = instruction.main_bytes
    if operation in _SLICING and operands:
        read[0] = min(read[0], written)
    elif operation.removesuffix("-start") in _SLICING:  # its result is (operands, slice, ...)
        read, written = [instruction.arrays[1].bytes], instruction.arrays[1].main_bytes
    elif operation == "dynamic-update-slice":
        read[0], written = 0, read[1]
    elif operation == "scatter" and len(operands) == 3:
        read[0], written = read[2], read[2]
    elif operation in _FUSIONS:
        if operation == "fusion-start":  # its result is (operands, results, ...)
            written -= sum(read)
        read, written = _fusion_bytes(program, instruction, read, max(0, written))
    elif operation.endswith("-start"):  # its result, too, begins with the operands
        written = max(0, written - sum(read))
    return sum(read) + written


def _fusion_bytes(
    program: Program, fusion: Instruction, read: list[int], written: int
) -> tuple[list[int], int]:
    """Return (bytes read of each operand, bytes written); of a slice, only the bytes it touches."""
    body = program.computations[fusion.called("calls")[0]]
    source = {}  # a parameter's number, by its name and those of its bitcasts
    users: dict[int, list[tuple[int, Instruction]]] = collections.defaultdict(list)
    for name, instruction in body.items():
        if instruction.operation == "parameter":
            source[name] = int(instruction.arguments)
            continue
        if instruction.operation == "bitcast" and instruction.operands[0] in source:
            source[name] = source[instruction.operands[0]]
            continue
        for position, operand in enumerate(instruction.operands):
            if operand in source:
                users[source[operand]].append((position, instruction))
    for number, uses in users.items():
        if number >= len(read) or read[number] == 0:
            continue
        if all(position == 0 and user.operation in _SLICING for position, user in uses):
            read[number] = min(read[number], sum(user.main_bytes for _, user in uses))
        elif all(
            position == 0 and user.operation == "dynamic-update-slice" for position, user in uses
        ):
            read[number] = 0
            for _, user in uses:
                update = body[user.operands[1]].main_bytes
                written = max(0, written - user.main_bytes) + update
    return read, written
