"""A tiny Qwen3 with random weights, written from nothing: a folder that any server of Hugging Face models can load.

Every token is a byte or a special token, so the tokenizer has no merges and the text that comes out is noise. The
weights come from a fixed seed: without sampling, equal prompts get equal answers.
Formats: https://huggingface.co/docs/safetensors and https://huggingface.co/docs/tokenizers.
"""

from __future__ import annotations

import array
import json
import random
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
BYTES = 256
VOCABULARY = BYTES + len(SPECIAL_TOKENS)
END_OF_TEXT, END_OF_TURN = BYTES, BYTES + 2
PRINTABLE = frozenset([*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)])
"""Bytes that stand for themselves in a byte-level vocabulary; the others are moved to U+0100 and up."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Size:
    """How large each part of the model is."""

    layers: int = 2
    hidden: int = 64
    intermediate: int = 128
    heads: int = 4
    kv_heads: int = 2
    head: int = 16

    def config(self) -> dict[str, object]:
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "dtype": "float32",
            "vocab_size": VOCABULARY,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            "eos_token_id": END_OF_TURN,
            "pad_token_id": END_OF_TEXT,
        }

    def shapes(self) -> dict[str, Shape]:
        """The shape of every weight, by its name."""
        shapes: dict[str, Shape] = {
            "model.embed_tokens.weight": (VOCABULARY, self.hidden),
            "model.norm.weight": (self.hidden,),
        }
        for layer in range(self.layers):
            for name, shape in self._layer_shapes().items():
                shapes[f"model.layers.{layer}.{name}.weight"] = shape
        return shapes

    def _layer_shapes(self) -> dict[str, Shape]:
        queries, keys = self.heads * self.head, self.kv_heads * self.head
        return {
            "input_layernorm": (self.hidden,),
            "self_attn.q_proj": (queries, self.hidden),
            "self_attn.k_proj": (keys, self.hidden),
            "self_attn.v_proj": (keys, self.hidden),
            "self_attn.o_proj": (self.hidden, queries),
            "self_attn.q_norm": (self.head,),
            "self_attn.k_norm": (self.head,),
            "post_attention_layernorm": (self.hidden,),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }


def write_model(folder: Path, size: Size | None = None, seed: int = 1) -> None:
    """Make the folder and fill it. Raises OSError."""
    size = size or Size()
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", size.config())
    _write_json(folder / "generation_config.json", {"eos_token_id": END_OF_TURN, "pad_token_id": END_OF_TEXT})
    _write_json(folder / "tokenizer.json", _tokenizer())
    _write_json(folder / "tokenizer_config.json", _tokenizer_config())
    (folder / "model.safetensors").write_bytes(_safetensors(size.shapes(), random.Random(seed)))


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def _tokenizer() -> dict[str, object]:
    moved = iter(range(BYTES, 2 * BYTES))
    vocabulary = {chr(byte if byte in PRINTABLE else next(moved)): byte for byte in range(BYTES)}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": BYTES + index, "content": token, **plain} for index, token in enumerate(SPECIAL_TOKENS)
        ],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }


def _tokenizer_config() -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def _safetensors(shapes: dict[str, Shape], rng: random.Random) -> bytes:
    """The length of a JSON header, the header, then the weights of all tensors, little-endian float32."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    weights = bytearray()
    for name, shape in shapes.items():
        tensor = _tensor(shape, rng)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(weights), len(weights) + len(tensor)]}
        weights += tensor
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + weights


def _tensor(shape: Shape, rng: random.Random) -> bytes:
    """Norms are ones, as in a model before its training; the rest is noise."""
    if len(shape) == 1:
        values = array.array("f", [1.0] * shape[0])
    else:
        values = array.array("f", [rng.gauss(0.0, 0.3) for _ in range(shape[0] * shape[1])])
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()
