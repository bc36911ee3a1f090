"""A tiny BERT with random weights and a vocabulary of eleven words, for tests that need an encoder and no download."""

import pytest
import torch

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film", "it", "was"]


def write(path, layers=1):
    """Model and tokenizer in a folder, whose name comes back; the test is skipped where transformers is absent."""
    transformers = pytest.importorskip("transformers", reason="the extra decalign-core[text] is not installed")
    (path / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    transformers.BertTokenizerFast(str(path / "vocab.txt"), do_lower_case=True).save_pretrained(path)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=32
    )
    transformers.BertModel(config).save_pretrained(path)
    return str(path)
