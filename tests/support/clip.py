"""A model of CLIP's architecture with random weights, in the layouts that such models come in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

WORDS = ["red", "blue", "disc", "on", "grey", "photo", "of", "a"]
DIMENSION, EDGE, PATCH, MAX_TOKENS = 24, 32, 8, 16


def save_plain(folder: Path) -> None:
    """As openai/clip-vit-base-patch32 is laid out: what `transformers` saves."""
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    letters = sorted({letter for word in WORDS for letter in word})
    pieces = [
        "<|startoftext|>",
        "<|endoftext|>",
        *letters,
        *(f"{letter}</w>" for letter in letters),
    ]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=MAX_TOKENS)
    common = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "projection_dim": DIMENSION,
    }
    config = CLIPConfig(
        projection_dim=DIMENSION,
        text_config={
            **common,
            "vocab_size": len(vocabulary),
            "max_position_embeddings": MAX_TOKENS,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
        },
        vision_config={**common, "image_size": EDGE, "patch_size": PATCH},
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # as the hub has it: written years ago, with the names and forms of then
    processor = {
        "crop_size": EDGE,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": EDGE,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def save_packed(plain: Path, folder: Path) -> None:
    """As sentence-transformers/clip-ViT-B-32 is laid out."""
    shutil.copytree(plain, folder / "0_CLIPModel")
    kind = "sentence_transformers.models.CLIPModel"
    modules = [{"idx": 0, "name": "0", "path": "0_CLIPModel", "type": kind}]
    (folder / "modules.json").write_text(json.dumps(modules))
    versions = {"__version__": {"sentence_transformers": "2.0.0"}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(versions))
