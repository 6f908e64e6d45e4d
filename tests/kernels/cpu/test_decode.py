# SPDX-License-Identifier: Apache-2.0
"""A Llama's step in one call computes what transformers computes, whatever the model's sizes."""

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

import prosparse as ps
from prosparse.kernels.cpu import library
from prosparse.model.activation import make_activation
from prosparse.model.quantizing import hold_all, places
from prosparse.model.relufy import relufy_in_place
from prosparse.runtime.decode import Decoder
from tests.kernels.cpu.conftest import VARIANTS, use

STEPS = 4
# How far logits may be off, of the largest: by orders of summation; by roundings that stock code makes too.
BOUNDS = {torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}


def llama(**sizes):
    torch.manual_seed(0)
    config = LlamaConfig(max_position_embeddings=64, pad_token_id=0, initializer_range=0.1, **sizes)
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:  # norms of ones, biases of zeros would hide mistakes
            parameter.data += 0.1 * torch.randn_like(parameter)
    relufy_in_place(model, make_activation("fatrelu", threshold=0.1))
    model.generation_config.eos_token_id = None
    return model


def logits_by_one_call(model, prompt, tokens):
    """Return the logits [STEPS, V] that follow given tokens."""
    with ps.accelerate(model, max_tokens=1):
        decoder = Decoder(model, max_length=prompt.shape[1] + STEPS + 1)
        decoder.prefill(prompt)
        step, found = decoder._one_call, []
        assert step is not None
        for i, token in enumerate(tokens):
            likeliest = step(token, prompt.shape[1] + i)
            assert likeliest == int(step.logits[0].argmax())
            found.append(step.logits[0].float().clone())
    return torch.stack(found)


def expected_logits(model, prompt, tokens):
    ids = torch.cat([prompt, torch.tensor([tokens])], dim=1)
    with torch.no_grad():
        return model(ids, use_cache=False).logits[0, prompt.shape[1] :].float()


@st.composite
def cases(draw):
    bits = draw(st.sampled_from([None, None, 8, 4]))
    width = 64 if bits else 1
    kv_heads, head_dim = draw(st.integers(1, 3)), 2 * draw(st.integers(1, 40))
    heads = kv_heads * draw(st.integers(1, 3))
    if bits:
        head_dim = draw(st.sampled_from([32, 64]))
        heads = 2 * heads
        kv_heads = draw(st.sampled_from([k for k in range(1, heads + 1) if heads % k == 0]))
    sizes = {
        "hidden_size": heads * head_dim,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": width * draw(st.integers(1, 3 if bits else 90)),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "vocab_size": draw(st.integers(3, 200)),
        "tie_word_embeddings": draw(st.booleans()),
        "attention_bias": draw(st.booleans()),
        "mlp_bias": draw(st.booleans()),
    }
    return sizes, bits, draw(st.integers(1, 40)), draw(st.sampled_from(list(BOUNDS)))


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(
    case=cases(), variant=st.sampled_from(VARIANTS), threads=st.integers(1, 5), own=st.booleans()
)
def test_any_llama_gives_the_logits_of_its_stock_code(case, variant, threads, own):
    sizes, bits, length, dtype = case
    if not use(variant):
        return
    library.library().prosparse_use_openmp(not own)
    torch.set_num_threads(threads)
    model = llama(**sizes)
    if bits is not None:
        hold_all(model, {place.name: bits for place in places(model)}, places(model), 64)
    generator = torch.Generator().manual_seed(length)
    prompt = torch.randint(sizes["vocab_size"], (1, length), generator=generator)
    tokens = torch.randint(sizes["vocab_size"], (STEPS,), generator=generator).tolist()
    expected = expected_logits(model, prompt, tokens)
    found = logits_by_one_call(model.to(dtype), prompt, tokens)
    assert (found - expected).abs().max() <= BOUNDS[dtype] * expected.abs().max()


def test_the_first_of_equal_logits_is_the_likeliest():
    model = llama(hidden_size=32, num_attention_heads=2, num_key_value_heads=1,
                  intermediate_size=48, num_hidden_layers=1, vocab_size=1000)  # fmt: skip
    head = model.lm_head.weight.data
    head[300:] = head[:700].clone()
    logits_by_one_call(model, torch.tensor([[5, 6, 7]]), [1, 2, 3, 4])  # compares with argmax
    head[640] = torch.nan
    head[210] = torch.nan
    logits_by_one_call(model, torch.tensor([[5, 6, 7]]), [1, 2, 3, 4])


def test_the_number_and_kind_of_threads_change_no_bit(variant):
    model = llama(hidden_size=576, num_attention_heads=9, num_key_value_heads=3,
                  intermediate_size=700, num_hidden_layers=2, vocab_size=5000).bfloat16()  # fmt: skip
    prompt, found = torch.arange(100)[None], []
    for openmp in (True, False):
        library.library().prosparse_use_openmp(openmp)
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            with ps.accelerate(model, max_tokens=1):
                decoder = Decoder(model, max_length=110)
                torch.set_num_threads(2)
                decoder.prefill(prompt)  # torch's own sums depend on its threads
                torch.set_num_threads(threads)
                decoder._one_call(7, 100)
                found.append(decoder._one_call.logits)
    assert all(torch.equal(logits, found[0]) for logits in found)
