# SPDX-License-Identifier: Apache-2.0
"""Tokenizers as GGUF has them."""

import pytest
from gguf import GGUFWriter
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from prosparse.errors import UserError
from prosparse.exporting.vocabulary import add_vocabulary
from tests.conftest import byte_tokenizer
from tests.exporting.reading import read


def keys_of(tokenizer, tmp_path, num_tokens, whole=False):
    path = tmp_path / "v.gguf"
    writer = GGUFWriter(path, "llama")
    add_vocabulary(writer, tokenizer, num_tokens, whole=whole)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read(path)[0]


def bpe(pre_tokenizer, merges=(("a", "b"), ("ab", "c"))):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|endoftext|>", *alphabet, *("".join(pair) for pair in merges)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
LLAMA3 = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"


@pytest.mark.parametrize(
    ("pre", "name"),
    [
        (BYTES, "gpt-2"),
        (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES]), "smollm"),
        (
            pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), BYTES]),
            "llama-bpe",
        ),
        (
            pre_tokenizers.Sequence([pre_tokenizers.Split(Regex("x+"), "isolated"), BYTES]),
            "default",
        ),
    ],
)
def test_bytes(tmp_path, pre, name):
    keys = keys_of(bpe(pre), tmp_path, 260)
    assert keys["tokenizer.ggml.model"] == "gpt2"
    assert keys["tokenizer.ggml.pre"] == name
    assert keys["tokenizer.ggml.merges"] == ["a b", "ab c"]
    tokens, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    assert tokens[257:] == ["ab", "abc", "[PAD259]"]
    assert (types[0], types[1], types[259]) == (3, 1, 5)  # control, normal, unused
    assert keys["tokenizer.ggml.add_bos_token"] is False


def llama2():
    merges = [("▁", "t"), ("▁t", "he"), ("h", "e")]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["▁t", "he", "▁the", "▁", "t", "h", "e"]
    model = models.BPE(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[merges[0], merges[2], merges[1]],
        unk_token="<unk>",
        byte_fallback=True,
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(model), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def test_bytes_to_fall_back_on(tmp_path):
    keys = keys_of(llama2(), tmp_path, 266)
    assert keys["tokenizer.ggml.model"] == "llama"
    assert keys["tokenizer.ggml.bos_token_id"] == 1
    types = keys["tokenizer.ggml.token_type"]
    assert (types[0], types[1], types[3], types[259]) == (2, 3, 6, 1)
    scores = keys["tokenizer.ggml.scores"]
    # what was merged first has the highest score
    assert scores[259] > scores[260] > scores[261] > scores[262]
    assert "tokenizer.ggml.merges" not in keys


def test_the_whole_tokenizer_is_there_where_asked(tmp_path):
    name = "tokenizer.huggingface.json"
    assert name not in keys_of(byte_tokenizer(), tmp_path, 257)
    state = keys_of(byte_tokenizer(), tmp_path, 257, whole=True)[name]
    again = Tokenizer.from_str(state)
    assert again.encode("héllo 12").ids == byte_tokenizer()("héllo 12")["input_ids"]


def test_other_tokenizers_are_refused(tmp_path):
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    with pytest.raises(UserError, match="is a WordLevel of a kind"):
        keys_of(PreTrainedTokenizerFast(tokenizer_object=words), tmp_path, 2)
    with pytest.raises(UserError, match="token 256 and the model 100 embeddings"):
        keys_of(byte_tokenizer(), tmp_path, 100)
