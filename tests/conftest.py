"""Tiny models and a byte tokenizer, built from configs: nothing is downloaded."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st

from cllmfs.encoding.prompts import PromptTemplate

# Threads that wait for one another on busy cores make tiny models slower by a factor of ten and more.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_CHECKING:  # tests of the light modules load no torch
    from cllmfs.encoding.encoder import Encoder
    from cllmfs.encoding.rows import Request, Row, TypeQuery
    from cllmfs.encoding.tokens import TokenizedText
    from cllmfs.model.backbone import Backbone


# models

ARCHITECTURES = ("llama", "qwen3", "mistral", "gpt2", "neox", "bert")
# The tokenizer of each architecture's own family; BERT has no fast causal family of its own there.
FAMILIES = {"llama": "llama-3", "qwen3": "qwen3", "mistral": "mistral-v3", "gpt2": "gpt2", "neox": "gpt-neox-20b"}
SHORT_TEMPLATE = PromptTemplate("S:", "\n", query="{label}?", query_described="{label}, {description}?", open="A:")
# Wide initial weights, so that what the models compute differs measurably from token to token.
_SIZES = {"initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
_LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
}


def tiny_model(architecture: str, vocabulary: int, *, seed: int = 0, **changes: Any) -> Any:
    """A random model of two layers in fp32, without dropout; ``changes`` go to its config."""
    import torch
    import transformers as hf

    if architecture in ("llama", "qwen3", "mistral", "granite", "cohere"):
        settings = {**_SIZES, **_LLAMA_LIKE, "sliding_window": None}
        names = {"llama": "Llama", "qwen3": "Qwen3", "mistral": "Mistral", "granite": "Granite", "cohere": "Cohere"}
        config = getattr(hf, f"{names[architecture]}Config")(vocab_size=vocabulary, **{**settings, **changes})
        kind = getattr(hf, f"{names[architecture]}ForCausalLM")
    elif architecture == "gpt2":
        dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        settings = {**_SIZES, **dropout, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1024, **changes}
        config, kind = hf.GPT2Config(vocab_size=vocabulary, **settings), hf.GPT2LMHeadModel
    elif architecture == "bloom":
        settings = {**_SIZES, "hidden_size": 32, "n_layer": 2, "n_head": 4, **changes}
        config, kind = hf.BloomConfig(vocab_size=vocabulary, **settings), hf.BloomForCausalLM
    else:
        settings = {**_SIZES, **_LLAMA_LIKE, **changes}
        for name in ("num_key_value_heads", "head_dim"):
            del settings[name]
        if architecture == "neox":
            config, kind = hf.GPTNeoXConfig(vocab_size=vocabulary, rotary_pct=0.5, **settings), hf.GPTNeoXForCausalLM
        else:
            dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
            settings = {**dropout, "is_decoder": True, **settings, "pad_token_id": 0}
            config, kind = hf.BertConfig(vocab_size=vocabulary, **settings), hf.BertLMHeadModel
    torch.manual_seed(seed)
    model = kind(config).float().eval()
    for name, parameter in model.named_parameters():  # biases that start at 0 would hide one that is forgotten
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def own_byte_tokenizer() -> Any:
    """A token a byte, after ``<s>``; an end-of-sequence token and nothing else."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def family_tokenizer(name: str) -> Any:
    """A real tokenizer; the test is skipped where the folder is absent."""
    from transformers import AutoTokenizer

    home = Path(os.environ.get("CLLMFS_TOKENIZERS", Path(__file__).resolve().parents[2] / "shared" / "tokenizers"))
    if not (home / name / "tokenizer.json").is_file():
        pytest.skip(f"there is no tokenizer {name} in {home}; set CLLMFS_TOKENIZERS to a folder of tokenizers")
    return AutoTokenizer.from_pretrained(home / name)


@functools.cache
def tiny_backbone(architecture: str, family: str = "byte", seed: int = 0) -> Backbone:
    """A tiny model behind the package's door, shared by all tests: they leave it as it is."""
    return fresh_backbone(architecture, family, seed=seed)


def fresh_backbone(architecture: str, family: str = "byte", *, seed: int = 0, **changes: Any) -> Backbone:
    """A tiny model of one's own."""
    from cllmfs.model.backbone import Backbone

    tokenizer = own_byte_tokenizer() if family == "byte" else family_tokenizer(family)
    template = SHORT_TEMPLATE if family == "byte" else PromptTemplate()
    model = tiny_model(architecture, len(tokenizer), seed=seed, **changes)
    return Backbone(f"tiny-{architecture}", model, tokenizer, template)


# Sentences with the mentions of each type asked: repeated mentions, a type without any, a mention of two types.
EXAMPLES: tuple[tuple[str, dict[str, tuple[str, ...]]], ...] = (
    ("Ada met Ada Byron in Rome.", {"person": ("Ada", "Ada Byron"), "place": ("Rome",), "boat": ()}),
    ("Rain.", {"person": (), "weather": ("Rain",)}),
    ('Zoë\'s boat "Rome" left 東京 for Rome & Oslo', {"boat": ("Rome",), "place": ("東京", "Rome", "Oslo")}),
    ("Nobody there", {"place": ()}),
)


def query_of(encoder: Encoder, text: TokenizedText, label: str, mentions: Iterable[str]) -> TypeQuery:
    """A type with all occurrences of the mentions as gold, as far as an answer can hold them."""
    at = [(m.start(), m.end()) for mention in mentions for m in re.finditer(re.escape(mention), text.text)]
    ranges = [found for start, end in at if (found := text.token_range(start, end)) is not None]
    return encoder.query(label, label, spans=encoder.automaton(text).emittable(ranges))


def rows_of(encoder: Encoder, examples: Any = EXAMPLES) -> list[Row]:
    """Rows with the gold answers of all examples."""
    rows = []
    for index, (sentence, types) in enumerate(examples):
        text = encoder.tokenize(sentence)
        queries = [query_of(encoder, text, label, mentions) for label, mentions in types.items()]
        rows += encoder.rows(text, queries, index)
    return rows


def requests_of(encoder: Encoder, examples: Any = EXAMPLES) -> list[Request]:
    """The same sentences and types, to be decoded."""
    from cllmfs.encoding.rows import Request

    return [
        Request(encoder.tokenize(sentence), encoder.queries(dict.fromkeys(types, ""))) for sentence, types in examples
    ]


def save_base(folder: Path, model: Any, tokenizer: Any) -> Path:
    """A base on disk with the short template; returns the folder."""
    from cllmfs.model.loading import PROMPT_FILE

    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / PROMPT_FILE).write_text(json.dumps(SHORT_TEMPLATE.to_dict()), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that ``load_backbone`` takes: a tiny random Llama with a byte tokenizer and a short prompt template."""
    tokenizer = own_byte_tokenizer()
    return save_base(tmp_path_factory.mktemp("bases") / "tiny-llama", tiny_model("llama", len(tokenizer)), tokenizer)


# tokenizers

# What tokenizers stumble over; random texts are made of these.
_VISIBLE = (
    "Ada Zoë Byron Straße İzmir ﬁn e\u0301 Zo\u0308e\u0323\u0302 \u0301 ñ x_y a1 2026 "
    "👩‍🚀 👨‍👩‍👧 👍🏽 🇮🇹 🇫🇷🇩🇪 🇯 ❤️‍🔥 1️⃣ 🏴󠁧󠁢󠁳󠁣󠁴󠁿 😀 "
    "東京 日本語 𠮷 ひらがな が か\u3099 カタカナ ー ｶﾞ 々 กรุงเทพ น้ำ ລາວ ភ្នំពេញ မြန်မာ བོད "
    "서울 한국 \u1112\u1161\u11ab \u1100 क्षेत्र नमस्ते தமிழ் القاهرة مَدِينَة שלום עִבְרִית Ελλάδα Москва "
    "\u200f \u200e \u202b \u202c \u2067 \u2069 \u061c \u200b \u200c \u200d \u00ad \u2060 \ufeff "
    "\x00 \x07 \x7f \ue000 \U00012000 \U0001d11e \u0378 \ufffd "
    ". , ' ’ - – … | ; ( ) « 、 。 $ € ½ ² ^ _ ▁ Ġ ##a "
    "</s> <s> [SEP] [UNK] [unused1] <|endoftext|> <|im_end|> <unk> <0x0A>"
)
_BLANK = (" ", " ", " ", "  ", "\n", "\r\n", "\r", "\t", "\u00a0", "\u2009", "\u3000", "\u2028", "\x85", "\x1c")
TEXT_PIECES = (*_VISIBLE.split(" "), *_BLANK)


def texts(max_pieces: int = 10) -> st.SearchStrategy[str]:
    """Texts of any scripts, seams of scripts and broken sequences included; never half a surrogate pair."""
    char = st.characters(exclude_categories=["Cs"])
    return st.lists(st.one_of(st.sampled_from(TEXT_PIECES), char), max_size=max_pieces).map("".join)


def byte_tokenizer() -> Any:
    """A token a byte: the byte-level alphabet, ``<s>``, ``</s>`` (which pads, too) and ``<unk>``."""
    tokenizer = own_byte_tokenizer()
    tokenizer.add_special_tokens({"unk_token": "<unk>", "pad_token": "</s>"})
    return tokenizer


def word_tokenizer() -> Any:
    """A lower-casing, accent-stripping WordPiece tokenizer of a few words; other words fall to letters or ``[UNK]``."""
    import string

    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]", "[unused2]"]
    letters = string.ascii_lowercase + string.digits
    whole = ["ada", "byron", "zoe", "rome", "the", "boat", "東", "京", *letters, *".,;'-()[]"]
    parts = ["##ly", "##burg", *(f"##{char}" for char in letters)]
    vocabulary = {piece: number for number, piece in enumerate([*special, *whole, *parts])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=20))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def real_tokenizers() -> Iterator[tuple[str, Path]]:
    """Names and folders of the real tokenizers: ``$CLLMFS_TOKENIZERS``, or a folder beside the repository."""
    home = Path(os.environ.get("CLLMFS_TOKENIZERS", Path(__file__).resolve().parents[2] / "shared" / "tokenizers"))
    for file in sorted(home.glob("*/tokenizer.json")):
        yield file.parent.name, file.parent


def tokenizer_names() -> list[Any]:
    """Parameters of a test over all tokenizers; where there is no real one, a skipped parameter says so."""
    reason = "there are no real tokenizers; set CLLMFS_TOKENIZERS to a folder of tokenizer folders"
    real = [name for name, _ in real_tokenizers()]
    return ["byte", "word", *(real or [pytest.param("real", marks=pytest.mark.skip(reason=reason))])]


@functools.cache
def tokenizer_named(name: str) -> Any:
    """A tokenizer of :func:`tokenizer_names`, loaded once and shared by all tests: they leave it as it is."""
    made = {"byte": byte_tokenizer, "word": word_tokenizer}
    return made[name]() if name in made else family_tokenizer(name)


@functools.cache
def cut_tokenizer(name: str) -> Any:
    """A copy of the shared tokenizer that cuts at the edges of words."""
    from cllmfs.encoding.tokens import with_word_cuts

    return with_word_cuts(tokenizer_named(name))
