"""Chooses the device and the precision of a local model. Each function imports torch itself."""

from __future__ import annotations

import atexit
import gc
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from embeddings_pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

# CPU flags with which bfloat16 is faster than float32; without them bfloat16 is slower
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}
# how the lines of /proc/cpuinfo begin that tell processors apart; the last two on ARM
_PROCESSOR_LINES = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU ")
# compute capability of NVIDIA Ampere, the first generation with bfloat16 units
_BFLOAT16_CAPABILITY = (8, 0)

# when a process ends, Python looks for cycles in all that is left, and torch's modules alone have
# 250,000 objects: that takes a fifth of the time of a short process
atexit.register(gc.freeze)


@contextmanager
def _imported_objects_are_old() -> Iterator[None]:
    """Keep Python from looking for cycles in the objects of an import, other than in a collection
    of all objects. With torch's that takes a tenth of the time of a short process."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # objects that a caller froze stay frozen
        if not gc.get_freeze_count():
            gc.freeze()
            # back, but into the oldest generation
            gc.unfreeze()
        if enabled:
            gc.enable()


def device_for(setting: str) -> str:
    """Return the device for a value of EMBEDDING_DEVICE: `auto`, `cpu`, `mps`, `cuda` or `cuda:1`.

    Raises ConfigurationError for a device that this machine does not have.
    """
    with _imported_objects_are_old():
        import torch

    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    present = ["cpu", *(f"cuda:{n}" for n in range(cuda))]
    if torch.backends.mps.is_available():
        present.append("mps")
    if setting == "auto":
        return "cuda:0" if cuda else present[-1]
    resolved = "cuda:0" if setting == "cuda" else setting
    if resolved not in present:
        raise ConfigurationError(
            f"EMBEDDING_DEVICE {setting!r} is not on this machine (devices: auto,"
            f" {', '.join(present)})"
        )
    return resolved


def dtype_for(precision: str, device: str) -> torch.dtype:
    """Return the type for EMBEDDING_PRECISION: `auto` is bfloat16 on a device that is fast at it,
    float32 elsewhere."""
    import torch

    if precision == "auto":
        precision = "bfloat16" if _is_fast_at_bfloat16(device) else "float32"
    return {
        "float32": torch.float32,
        "bfloat16": torch.bfloat16,
        "float16": torch.float16,
    }[precision]


def _is_fast_at_bfloat16(device: str) -> bool:
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device) >= _BFLOAT16_CAPABILITY
    return device == "cpu" and bool(_BFLOAT16_FLAGS & set(processor().split()))


def processor() -> str:
    """What tells this machine's processor from others, with its instruction sets where the system
    lists them."""
    listed = Path("/proc/cpuinfo")
    if not listed.exists():
        return platform.processor()
    # those of the first core
    lines = listed.read_text().partition("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(_PROCESSOR_LINES))


def has_nvidia_card(device: str) -> bool:
    """Whether the device is a card of NVIDIA; torch calls those of AMD `cuda`, too."""
    import torch

    return device.startswith("cuda") and torch.version.cuda is not None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch ran out of memory. CUDA raises its own class, a CPU a RuntimeError."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def release_memory(device: str) -> None:
    """Free the memory that a failed batch left in the device's cache."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.empty_cache()
