# SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch

from prosparse.benchmarking.decode_precise import ComputesIn, one_precision_up
from tests.conftest import tiny_llama
from tests.model.tiny import tiny_model, tiny_tokens

FAMILIES = ["llama", "gemma2", "phi3", "opt", "gpt2", "falcon", "bloom"]


def logits(model):
    with torch.no_grad():
        return model(tiny_tokens(), use_cache=False).logits


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_gives_what_a_wider_copy_of_the_model_gives(model_type, dtype):
    model = tiny_model(model_type).to(dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with ComputesIn(torch.float32):
        found = logits(model)
    assert torch.equal(found, logits(copy.deepcopy(model).float()))
    assert not torch.equal(found, logits(model).float())
    after = model.state_dict()
    assert all(
        torch.equal(after[name], value) and after[name].dtype == value.dtype
        for name, value in before.items()
    )


def test_a_head_tied_to_the_embedding():
    model = tiny_llama(tie_word_embeddings=True).bfloat16()
    with ComputesIn(torch.float32):
        found = logits(model)
    assert torch.equal(found, logits(copy.deepcopy(model).float()))
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_float64_reaches_what_modeling_code_asks_for_in_float32():
    model = tiny_llama()
    tables, dtypes = [], set()
    for module in model.modules():
        module.register_forward_hook(
            lambda _module, _args, output: dtypes.update(
                {output.dtype} if isinstance(output, torch.Tensor) else set()
            )
        )
    model.model.rotary_emb.register_forward_hook(lambda _module, _args, out: tables.extend(out))
    with ComputesIn(torch.float64):
        found = logits(model)
    assert found.dtype == torch.float64
    assert dtypes == {torch.float64}
    cos, sin = tables
    frequencies = model.model.rotary_emb.inv_freq.double()
    angles = torch.arange(12)[:, None].double() * frequencies
    torch.testing.assert_close(cos[0, :, :4], angles.cos(), rtol=0, atol=1e-15)
    torch.testing.assert_close(sin[0, :, :4], angles.sin(), rtol=0, atol=1e-15)
    assert 0 < float((found - logits(model)).abs().max()) < 1e-4


def test_what_is_written_to_the_model_is_not_lost_in_silence():
    buffer = torch.zeros(3, dtype=torch.bfloat16)
    with pytest.raises(RuntimeError, match="writes into"), ComputesIn(torch.float32):
        buffer += 1
    with ComputesIn(torch.float32):
        own = torch.zeros(3, dtype=torch.bfloat16)
        own += 1 / 3
    assert own.dtype == torch.float32
    assert own[0] == torch.tensor(1 / 3)


def test_one_precision_up():
    assert one_precision_up(torch.bfloat16) == torch.float32
    assert one_precision_up(torch.float16) == torch.float32
    assert one_precision_up(torch.float32) == torch.float64
