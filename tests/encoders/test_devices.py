"""Which device and which precision a model computes in."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from embeddings_pipeline.encoders.local import devices
from embeddings_pipeline.encoders.local.devices import device_for, dtype_for
from embeddings_pipeline.errors import ConfigurationError


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with two NVIDIA devices and none of Apple's, unless a test says otherwise."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return monkeypatch


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("auto", "cuda:0"),
        ("cuda", "cuda:0"),
        ("cuda:0", "cuda:0"),
        ("cuda:1", "cuda:1"),
        ("cpu", "cpu"),
    ],
)
@pytest.mark.usefixtures("machine")
def test_a_device_is_what_was_said_or_the_first_of_the_fast_ones(wanted: str, found: str) -> None:
    assert device_for(wanted) == found


@pytest.mark.parametrize("wanted", ["cuda:2", "mps"])
@pytest.mark.usefixtures("machine")
def test_a_device_that_is_not_there_is_named_with_the_choices(wanted: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        device_for(wanted)
    assert str(error.value) == (
        f"EMBEDDING_DEVICE {wanted!r} is not on this machine (devices: auto, cpu, cuda:0, cuda:1)"
    )


def test_without_a_fast_device_the_processor_computes(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(torch.cuda, "is_available", lambda: False)
    assert device_for("auto") == "cpu"
    with pytest.raises(ConfigurationError, match=r"'cuda' .*\(devices: auto, cpu\)"):
        device_for("cuda")
    machine.setattr(torch.backends.mps, "is_available", lambda: True)
    assert (device_for("auto"), device_for("mps")) == ("mps", "mps")


@pytest.mark.parametrize("device", ["cpu", "cuda:0", "mps"])
def test_a_precision_that_is_said_is_used(device: str) -> None:
    assert dtype_for("float32", device) == torch.float32
    assert dtype_for("bfloat16", device) == torch.bfloat16
    assert dtype_for("float16", device) == torch.float16


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_a_graphics_card_since_ampere_computes_in_bfloat16(
    machine: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    machine.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert dtype_for("auto", "cuda:1") == dtype


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("flags : sse4_2 avx2 avx512f", torch.float32),
        ("flags : avx512f avx512_bf16 fsrm", torch.bfloat16),
        ("flags : amx_bf16 amx_tile", torch.bfloat16),
        (None, torch.float32),
    ],
)
def test_a_processor_computes_in_bfloat16_where_it_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str | None, dtype: torch.dtype
) -> None:
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(f"processor : 0\n{flags}\n")
    monkeypatch.setattr(devices, "Path", lambda path: tmp_path / "cpuinfo")
    assert dtype_for("auto", "cpu") == dtype


def test_apples_device_computes_in_float32() -> None:
    assert dtype_for("auto", "mps") == torch.float32


def test_a_process_ends_without_a_search_for_cycles_in_the_modules_of_torch() -> None:
    program = """
import atexit, gc
# handlers run in the reverse order
atexit.register(lambda: print(gc.get_freeze_count() > 100_000))
from embeddings_pipeline.encoders.local.devices import device_for
device_for("cpu")
print(gc.get_freeze_count())
"""
    told = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    assert told == "0\nTrue\n"


def test_objects_of_torch_are_old_and_later_cycles_are_collected() -> None:
    program = """
import gc, sys, weakref
from embeddings_pipeline.encoders.local.devices import device_for

class Node: ...

def cycle():
    node = Node()
    node.itself = node
    return weakref.ref(node)

before = cycle()
collections = [generation["collections"] for generation in gc.get_stats()]
device_for("cpu")
assert "torch" in sys.modules
assert [generation["collections"] for generation in gc.get_stats()] == collections
assert len(gc.get_objects(0)) + len(gc.get_objects(1)) < 10_000 < len(gc.get_objects(2))
assert gc.isenabled() and not gc.get_freeze_count()
after = cycle()
gc.collect()
assert before() is None and after() is None
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_objects_that_a_caller_froze_stay_frozen() -> None:
    gc.freeze()
    try:
        device_for("cpu")
        # not the same number: nothing may refer to some of them any longer
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
