# SPDX-License-Identifier: Apache-2.0
import torch
from lm_eval.api.instance import Instance

from prosparse.evaluation.answering import AnsweringModel
from prosparse.runtime.accelerate import accelerate
from prosparse.runtime.sparse_ffn import SparsePath
from tests.conftest import byte_tokenizer, tiny_llama

GREEDY = {"until": ["\n"], "max_gen_toks": 8, "do_sample": False}


def asked(kind: str, *arguments: tuple) -> list[Instance]:
    return [Instance(kind, {}, args, n, ("t", n, 1)) for n, args in enumerate(arguments)]


def test_short_passes_give_the_logits_of_a_whole_one():
    model = tiny_llama(hidden_act="relu")
    ids = torch.arange(1, 40)[None]
    whole = AnsweringModel(model, byte_tokenizer(), 1)._model_call(ids)
    pieces = AnsweringModel(model, byte_tokenizer(), 1, max_tokens=16)._model_call(ids)
    torch.testing.assert_close(pieces, whole)


def test_every_token_of_a_ranked_answer_takes_the_sparse_path(monkeypatch):
    model = tiny_llama(hidden_act="relu")
    sparse, run = [], SparsePath.run
    monkeypatch.setattr(
        SparsePath, "run", lambda path, x: (sparse.append(x.shape[1]), run(path, x))[1]
    )
    with accelerate(model, max_tokens=8) as accelerated:
        asking = AnsweringModel(model, byte_tokenizer(), 1, accelerated.max_tokens)
        asking.loglikelihood(asked("loglikelihood", ("a" * 20, " b")), disable_tqdm=True)
    assert sparse == [8, 8, 8, 8, 5, 5]  # two layers, each pass


def test_an_answer_that_never_ends_is_cut_and_counted():
    model = AnsweringModel(tiny_llama(max_position_embeddings=64), byte_tokenizer(), 1)
    (text,) = model.generate_until(asked("generate_until", ("ab", GREEDY)), disable_tqdm=True)
    assert len(text.encode()) <= 8 * 3
    assert model.num_unended == 1


def test_an_answer_that_stops_at_its_limit_is_not_unended():
    model = AnsweringModel(tiny_llama(max_position_embeddings=64), byte_tokenizer(), 1)
    (text,) = model.generate_until(asked("generate_until", ("ab", GREEDY)), disable_tqdm=True)
    model.num_unended = 0
    until = {**GREEDY, "until": [text[-1]]}
    model.generate_until(asked("generate_until", ("ab", until)), disable_tqdm=True)
    assert model.num_unended == 0


def test_prompts_longer_than_the_context_are_counted():
    model = AnsweringModel(tiny_llama(max_position_embeddings=32), byte_tokenizer(), 1)
    model.loglikelihood(asked("loglikelihood", ("a" * 40, " b"), ("a", " b")), disable_tqdm=True)
    assert model.num_cut_prompts == 1
    model.generate_until(
        asked("generate_until", ("a" * 40, GREEDY), ("a", GREEDY)), disable_tqdm=True
    )
    assert model.num_cut_prompts == 2


def test_a_batch_answers_as_its_items_alone():
    pairs = [("the number", f" {n}" * (n % 3 + 1)) for n in range(7)]
    texts = [(f"say {'so ' * n}", GREEDY) for n in range(5)]
    alone, batched = (AnsweringModel(tiny_llama(), byte_tokenizer(), size) for size in (1, 4))
    first, second = (
        m.loglikelihood(asked("loglikelihood", *pairs), disable_tqdm=True) for m in (alone, batched)
    )
    torch.testing.assert_close([ll for ll, _ in first], [ll for ll, _ in second])
    assert [g for _, g in first] == [g for _, g in second]
    first, second = (
        m.generate_until(asked("generate_until", *texts), disable_tqdm=True)
        for m in (alone, batched)
    )
    assert first == second


def test_likelihoods_are_summed_in_float32_whatever_the_models_dtype():
    model = tiny_llama(hidden_act="relu").to(torch.bfloat16)
    (answer,) = AnsweringModel(model, byte_tokenizer(), 1).loglikelihood(
        asked("loglikelihood", ("a", "b" * 40)), disable_tqdm=True
    )
    ids = torch.tensor([byte_tokenizer().encode("a" + "b" * 40)])
    with torch.no_grad():
        logs = model(ids[:, :-1]).logits.float().log_softmax(-1)
    torch.testing.assert_close(
        answer[0], float(logs.gather(2, ids[:, 1:, None]).sum()), rtol=1e-6, atol=0
    )
