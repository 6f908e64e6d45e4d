# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning on answers: what is learned, what is penalized, and who sees whom."""

import copy
import json
import logging
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
)

from prosparse.data.conversations import PackedConversations
from prosparse.data.sources import Source
from prosparse.data.tokens import tokenize
from prosparse.errors import UserError
from prosparse.model.checkpoint import load
from tests.conftest import byte_tokenizer, tiny_llama

CONVERSATIONS = [["2+2?", "4."], ["Who?", "Me, and you."], ["Why", "So", "And?", "No"], ["a", "b"]]
CONTEXT = 96


@pytest.fixture
def chats(tmp_path) -> Path:
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in CONVERSATIONS))
    return path


@pytest.fixture
def sft(plain_data, relu_checkpoint, chats) -> dict:
    """A recipe of fine-tuning: one fixed stage, on all conversations in every step."""
    plain_data["model"] = str(relu_checkpoint)
    plain_data["data"] = {
        "context_length": CONTEXT,
        "loss": "answers",
        "components": {"chats": {"path": str(chats), "messages_field": "messages"}},
    }
    plain_data["regularization"]["stages"] = [
        {"until": 6, "factor": 0.5, "fixed": True, "name": "SFT"}
    ]
    return plain_data


@pytest.fixture
def documents() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Token ids [1, S] and labels [S] of each conversation, by hand."""
    tokenizer = byte_tokenizer()
    token_of = {tokenizer.decode([token]): token for token in range(1, 257)}
    made = []
    for turns in CONVERSATIONS:
        ids, labels = [], []
        for index, turn in enumerate(turns):
            is_answer = index % 2 == 1
            # "assistant:" is where the template asks: what follows it is the answer, to its newline.
            parts = ("assistant:", f" {turn}\n") if is_answer else (f"user: {turn}\n", "")
            asked, answered = ([token_of[c] for c in part] for part in parts)
            ids += asked + answered
            labels += [-100] * len(asked) + answered
        made.append((torch.tensor([[*ids, 0]]), torch.tensor([*labels, 0])))
    return made


def test_a_step_learns_answers_and_penalizes_every_real_token_once(
    run, sft, documents, relu_checkpoint, intermediates
):
    sft["regularization"]["stages"] = [{"until": 1, "factor": 0.5}]
    sft["training"].update(micro_batch_size=1, gradient_accumulation=2)
    (line,) = run(sft).log  # two blocks hold the four conversations

    model = AutoModelForCausalLM.from_pretrained(relu_checkpoint)
    losses, l1, num_tokens, active = [], 0.0, 0, 0
    for ids_BS, labels_S in documents:  # each alone: it sees no other, and nothing is padded
        with torch.no_grad():
            logits = model(input_ids=ids_BS).logits[0]
            layers = intermediates(model, ids_BS)
        losses.append(functional.cross_entropy(logits[:-1], labels_S[1:], reduction="none"))
        losses[-1] = losses[-1][labels_S[1:] != -100]
        l1 += sum(x1.abs().sum().item() for x1 in layers)
        active += sum((x1 != 0).sum().item() for x1 in layers)
        num_tokens += ids_BS.numel()  # prompts too
    assert line["tokens"] == num_tokens < 2 * CONTEXT
    assert line["loss"] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)
    assert line["l1"] == pytest.approx(l1 / num_tokens, rel=1e-5)
    assert line["regularization"] == pytest.approx(0.5 / 48 * l1 / num_tokens, rel=1e-5)
    assert line["sparsity"] == pytest.approx(1 - active / (2 * 48 * num_tokens), rel=1e-5)


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": 257, "n_positions": CONTEXT, "n_embd": 32, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.2)).eval()


@pytest.mark.parametrize("make", [tiny_llama, gpt2], ids=["llama", "gpt2"])
def test_conversations_of_one_block_do_not_see_each_other(make, chats, tmp_path):
    source = Source(str(chats), messages_field="messages")
    tokenizer = byte_tokenizer()
    store = tokenize(source, "chats", tokenizer, tmp_path / "s", progress=False, answers=True)
    sample = PackedConversations(store, CONTEXT, 0, padding=0).sample(0)
    starts = (sample["position_ids"] == 0).nonzero().flatten().tolist()
    assert len(starts) >= 3  # two conversations and padding
    model = make()
    parts = {name: sample[name][None] for name in ("input_ids", "position_ids")}
    with torch.no_grad():
        packed = model(**parts, use_cache=False).logits[0]
        second = sample["input_ids"][None, starts[1] : starts[2]]
        alone = model(input_ids=second).logits[0]
    torch.testing.assert_close(packed[starts[1] : starts[2]], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.invariant
def test_batch_is_accumulation(run, sft):
    other = copy.deepcopy(sft)
    other["out"] += "-accumulated"
    sft["training"].update(micro_batch_size=2)
    other["training"].update(micro_batch_size=1, gradient_accumulation=2)
    run(sft).assert_close(run(other))


@pytest.mark.invariant
def test_one_process_is_two(run, start, finished, sft):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    sft["training"].update(samples_per_step=2, micro_batch_size=1)
    halved = {**copy.deepcopy(sft), "out": sft["out"] + "-halved"}
    process = start(halved, launcher=launcher)
    whole = run(sft)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    finished(Path(halved["out"])).assert_close(whole)


@pytest.mark.slow
@pytest.mark.invariant
def test_compiled_is_eager(run, sft):
    compiled = copy.deepcopy(sft)
    compiled["out"] += "-compiled"
    compiled["training"]["compile"] = True
    run(compiled).assert_close(run(sft))


def test_a_stopped_run_goes_on_to_the_same_end_and_its_record_counts_real_tokens(run, sft):
    def crash(*args, **kwargs) -> None:
        raise ZeroDivisionError

    whole = run({**copy.deepcopy(sft), "out": sft["out"] + "-whole"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prosparse.training.run.save", crash)
        with pytest.raises(ZeroDivisionError):
            run(sft)
    resumed = run(sft, resume=True)
    resumed.assert_same(whole)
    for record in (whole.record, resumed.record):
        assert record.num_tokens == whole.log[-1]["tokens"] == record.stages[-1].end_tokens
        assert record.num_tokens < record.num_steps * record.tokens_per_step


def test_an_activation_that_is_there_already_is_not_put_in_again(run, recipe_data, sft):
    sft["measure"] = {**recipe_data.get("measure", {}), "every": 4}
    labels = [milestone.label for milestone in run(sft).record.milestones]
    assert labels == ["original", "step 4", "SFT"]


def test_another_sparse_activation_is_not_replaced_in_silence(run, sft, tmp_path, caplog):
    from prosparse.model.relufy import relufy

    relufy(sft["model"], out=tmp_path / "fat", activation="fatrelu", threshold=0.1)
    sft["model"] = str(tmp_path / "fat")
    with caplog.at_level(logging.WARNING):
        run(sft)
    assert "has fatrelu (0.1); the recipe's relufy section puts relu (None)" in caplog.text
    caplog.clear()
    sft["relufy"] = {"activation": "fatrelu", "threshold": 0.1}
    sft["out"] += "-kept"
    assert run(sft).record.activation.param == 0.1
    assert "puts relu" not in caplog.text


def test_a_model_without_positions_is_refused(run, sft, tmp_path):
    folder = tmp_path / "bloom"
    BloomForCausalLM(
        BloomConfig(vocab_size=257, hidden_size=32, n_layer=1, n_head=2)
    ).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    sft["model"] = str(folder)
    with pytest.raises(UserError, match="which a BloomForCausalLM does not take"):
        run(sft)


def test_a_chat_template_of_the_recipe_is_kept_with_the_checkpoint(run, sft):
    from prosparse.model.checkpoint import load_tokenizer

    sft["data"]["chat_template"] = "{% for m in messages %}{{ m['content'] }};{% endfor %}"
    done = run(sft)
    assert load_tokenizer(done.folder).chat_template == sft["data"]["chat_template"]
    assert load(done.folder).config.hidden_act == "relu"
