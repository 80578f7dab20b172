"""The local encoder on an NVIDIA card, beside SentenceTransformer.encode in float16 on that card.

Texts of about 50 and 512 tokens, through all-MiniLM-L6-v2 and through a model of the shape of
BERT-base with random weights: its speed is real, its vectors mean nothing. Prints tokens a second
without padding, the share of the card's own matrix product and of the time in which the card was
busy; then how near the vectors are to those in float32, and the rows a second of a whole run.
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.encoder import flops_a_token, quality
from benchmarks.scratch import arguments, timed, world
from embeddings_pipeline.encoders.encoder import StreamingEncoder
from embeddings_pipeline.encoders.local.download import find_or_download
from embeddings_pipeline.encoders.registry import Encoders
from embeddings_pipeline.entities.chunking import count_tokens
from embeddings_pipeline.settings import DEFAULT_MODEL, Settings

_LENGTHS = (50, 512)
_MAX_TOKENS = 512
# tokens of the texts of one measurement; sentence-transformers gets fewer, since it takes longer
_TOKENS, _TOKENS_FOR_OTHERS = 4_000_000, 500_000
_BATCH_SIZES = (32, 512)
_REPEATS = 3
_NEAR_TEXTS = 2_000
_MATRIX = 8192
_DEVICE = "cuda"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=60_000, help="of the whole run; 0 for none")
    options = parser.parse_args()
    import torch
    from transformers.utils import logging

    if not torch.cuda.is_available():
        print("this machine has no NVIDIA card that torch can use: nothing was measured")
        return
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    peak = matrix_peak()
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {time.strftime('%d %B %Y')}."
        f" A float16 product of two squares of {_MATRIX:,} makes {peak / 1e12:.0f} TFLOP/s."
    )
    texts = {length: texts_of(options.data, length) for length in _LENGTHS}
    with tempfile.TemporaryDirectory() as scratch:
        packaged = find_or_download(DEFAULT_MODEL, Settings())
        folders = {
            "MiniLM-L6": reading_more(packaged, Path(scratch) / "minilm"),
            "BERT-base": random_base(packaged, Path(scratch) / "base"),
        }
        print(HEADER)
        for name, folder in folders.items():
            for length in _LENGTHS:
                print(compared(name, folder, length, texts[length], peak), flush=True)
        for length in _LENGTHS:
            print(nearness(folders["MiniLM-L6"], length, texts[length][:_NEAR_TEXTS]), flush=True)
    for precision in ("float32", "auto"):
        figures = quality(options.data, encoder_of(packaged, precision))
        print(f"in {precision}: {', '.join(f'{k} {v:.2f}' for k, v in figures.items())}")
    if options.rows:
        print(whole_run(packaged, texts[_LENGTHS[0]][: options.rows]))


def encoder_of(folder: Path, precision: str = "auto") -> StreamingEncoder:
    settings = Settings(
        embedding_model_path=folder,
        embedding_device=_DEVICE,
        embedding_precision=precision,
    )
    return Encoders(settings).get(DEFAULT_MODEL)


def matrix_peak() -> float:
    """Floating point operations a second of a float16 product of two large random matrices."""
    import torch

    left, right = (
        torch.randn(_MATRIX, _MATRIX, dtype=torch.float16, device=_DEVICE) for _ in range(2)
    )

    def product() -> None:
        torch.mm(left, right)
        torch.cuda.synchronize()

    return 2 * _MATRIX**3 / min(timed(product)[0] for _ in range(20))


def texts_of(data: Path, length: int) -> list[str]:
    """Texts of 0.8 to 1.2 times as many tokens: passages of the SciFact abstracts."""
    corpus = data / "scifact" / "corpus.jsonl.gz"
    if not corpus.exists():
        sys.exit(f"{corpus} is missing: give the folder that holds it (make bench-gpu DATA=FOLDER)")
    with gzip.open(corpus, "rt", encoding="utf-8") as file:
        words = [word for line in file for word in json.loads(line)["text"].split()]
    draw = random.Random(length)
    tokens_a_word = sum(count_tokens(words[:10_000])) / 10_000 - 2

    def text() -> str:
        count = round(length * draw.uniform(0.8, 1.2) / tokens_a_word)
        start = draw.randrange(len(words) - count)
        return " ".join(words[start : start + count])

    return [text() for _ in range(_TOKENS // length)]


def reading_more(packaged: Path, folder: Path) -> Path:
    """A copy of the model that reads 512 tokens, for which it has positions, in place of 256."""
    shutil.copytree(packaged, folder)
    settings = json.loads((folder / "sentence_bert_config.json").read_text())
    settings["max_seq_length"] = _MAX_TOKENS
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    return folder


def random_base(packaged: Path, folder: Path) -> Path:
    """A model of 110 million random weights, with the tokenizer of the packaged one."""
    import torch
    from transformers import BertConfig, BertModel

    reading_more(packaged, folder)
    torch.manual_seed(0)
    BertModel(BertConfig()).save_pretrained(folder)
    pooling = folder / "1_Pooling" / "config.json"
    width = {"word_embedding_dimension": BertConfig().hidden_size}
    pooling.write_text(json.dumps(json.loads(pooling.read_text()) | width))
    return folder


HEADER = (
    f"{'model':9} {'tokens':>6} {'texts/s':>8} {'tokens/s':>10} {'of peak':>7} {'busy':>5}"
    f"  {'sentence-transformers, by batch':>32} {'times':>5}"
)


def compared(name: str, folder: Path, length: int, texts: Sequence[str], peak: float) -> str:
    """A row of the table."""
    encoder = encoder_of(folder)
    tokens = streamed(encoder, texts)
    seconds = min(timed(lambda: streamed(encoder, texts))[0] for _ in range(_REPEATS))
    busy = busy_share(lambda: streamed(encoder, texts))
    rate, flops = tokens / seconds, flops_a_token(folder) + attention_flops(folder, length)
    others = {size: library(folder, texts, size) for size in _BATCH_SIZES}
    rates = {size: rate / len(texts) * tokens for size, rate in others.items()}
    return (
        f"{name:9} {length:6} {len(texts) / seconds:8,.0f} {rate:10,.0f} {rate * flops / peak:7.2f}"
        f" {busy:5.2f}  {' '.join(f'{s}: {r:,.0f}' for s, r in rates.items()):>32}"
        f" {rate / max(rates.values()):5.1f}"
    )


def streamed(encoder: StreamingEncoder, texts: Sequence[str]) -> int:
    """Encode all texts as a run does; returns their tokens."""
    tokens = done = 0
    for batch in encoder.encode_stream(iter(texts)):
        if batch.error:
            raise batch.error
        tokens += batch.encodings.usage.tokens
        done += len(batch.places)
    assert done == len(texts)
    return tokens


def library(folder: Path, texts: Sequence[str], batch_size: int) -> float:
    """Texts a second of `SentenceTransformer.encode` in float16."""
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        str(folder), device=_DEVICE, model_kwargs={"dtype": torch.float16}, local_files_only=True
    )
    some = texts[: len(texts) * _TOKENS_FOR_OTHERS // _TOKENS]

    def encode() -> None:
        model.encode(some, batch_size=batch_size, show_progress_bar=False)

    encode()
    return len(some) / min(timed(encode)[0] for _ in range(_REPEATS - 1))


def attention_flops(folder: Path, length: int) -> float:
    """Operations for a token in the two products of attention, over all layers."""
    config = json.loads((folder / "config.json").read_text())
    return float(4 * config["num_hidden_layers"] * config["hidden_size"] * length)


def busy_share(work: Callable[[], object]) -> float:
    """The share of the time between the first and the last kernel in which one was running."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        work()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    kernels = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e.get("cat") == "kernel")
    busy, end = 0.0, kernels[0][0]
    for start, stop in kernels:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return float(busy / (end - kernels[0][0]))


def nearness(folder: Path, length: int, texts: Sequence[str]) -> str:
    """The cosine of each vector to the same vector in float32 on the card."""
    exact, half = (
        encoder_of(folder, precision).encode_documents(texts).vectors
        for precision in ("float32", "auto")
    )
    cosines = (exact * half).sum(axis=1)
    return (
        f"cosine to float32, {len(texts)} texts of {length} tokens: least {cosines.min():.6f},"
        f" mean {cosines.mean():.6f}"
    )


def whole_run(folder: Path, texts: Sequence[str]) -> str:
    """The texts and encode steps of a first run on an embedded Postgres, without an index."""
    with world() as scratch:
        scratch.encoders = Encoders(Settings(embedding_model_path=folder, embedding_device=_DEVICE))
        encoder = scratch.encoders.get(DEFAULT_MODEL)
        streamed(encoder, texts[:1_000])
        scratch.table("id bigint, name text")
        scratch.insert(*enumerate(texts))
        item = scratch.declare(template="{name}", index={"type": "none"})
        texts_seconds, _ = timed(lambda: scratch.texts(item))
        vectors_seconds, result = timed(lambda: scratch.vectors(item))
        alone, _ = timed(lambda: streamed(encoder, texts))
    assert result.counts.encoded == len(set(texts))
    return (
        f"whole run, {len(texts):,} rows of {_LENGTHS[0]} tokens:"
        f" {len(texts) / (texts_seconds + vectors_seconds):,.0f} rows/s"
        f" (texts {texts_seconds:.1f} s, encode and project {vectors_seconds:.1f} s, the encoder"
        f" alone {alone:.1f} s)"
    )


if __name__ == "__main__":
    main()
