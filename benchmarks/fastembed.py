"""fastembed on the weights of a local model, in an environment of its own: its requirements and
ours exclude one another."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from benchmarks.scratch import timed

_SERVER = """
import json, sys
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
TextEmbedding.add_custom_model(
    model="local/model", pooling=PoolingType.MEAN, normalization=True,
    sources=ModelSource(hf="local/model"), dim={dimension}, model_file="model.onnx",
)
model = TextEmbedding("local/model", specific_model_path={folder!r})
for line in sys.stdin:
    count = sum(1 for _ in model.embed(json.loads(line), batch_size=32))
    print(count, flush=True)
"""
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class FastEmbed:
    """A process that answers how many vectors it made; batches of 32, which are its fastest."""

    def __init__(self, python: Path, model: Path) -> None:
        folder = Path(tempfile.mkdtemp(prefix="ep-onnx-"))
        for file in model.glob("*.json"):
            shutil.copy(file, folder)
        dimension = export(model, folder / "model.onnx")
        self._command = [
            str(python),
            "-c",
            _SERVER.format(dimension=dimension, folder=str(folder)),
        ]
        self._process = self._started()

    def encode(self, texts: Sequence[str]) -> None:
        """Encode, and wait until it is done."""
        _ask(self._process, texts)

    def start(self, texts: Sequence[str]) -> float:
        """Seconds from the start of a process to the vectors of these texts."""
        return timed(lambda: _ask(self._started(), texts))[0]

    def _started(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )


def export(model: Path, path: Path) -> int:
    """Write the transformer as ONNX; returns its dimension."""
    import torch
    from transformers import BertModel

    bert = BertModel.from_pretrained(model, add_pooling_layer=False, attn_implementation="eager")

    class LastHidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = bert

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> object:
            return self.bert(
                input_ids=ids, attention_mask=mask, token_type_ids=types
            ).last_hidden_state

    example = torch.ones((2, 16), dtype=torch.long)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            LastHidden(),
            (example, example, example * 0),
            str(path),
            input_names=[*_INPUTS],
            output_names=["last_hidden_state"],
            dynamic_axes={n: {0: "texts", 1: "tokens"} for n in (*_INPUTS, "last_hidden_state")},
            dynamo=False,
            opset_version=17,
        )
    return int(bert.config.hidden_size)


def _ask(process: subprocess.Popen[str], texts: Sequence[str]) -> None:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the process has no pipes")
    process.stdin.write(json.dumps(texts) + "\n")
    process.stdin.flush()
    if process.stdout.readline().strip() != str(len(texts)):
        raise RuntimeError("fastembed did not answer")
