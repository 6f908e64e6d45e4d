# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from prosparse.errors import UserError
from prosparse.records.codec import decode
from prosparse.training.recipe import Recipe
from prosparse.training.sharded_checkpoints import ShardedCheckpoints
from prosparse.training.sharding import compiled_by_layer, keep_exact, whole


@pytest.fixture
def accelerator() -> SimpleNamespace:
    plugins = {"fsdp_plugin": SimpleNamespace(), "dynamo_plugin": SimpleNamespace()}
    return SimpleNamespace(mixed_precision="bf16", state=SimpleNamespace(**plugins))


def test_weights_are_gathered_in_bfloat16_and_nothing_else_is_rounded(accelerator):
    keep_exact(accelerator)
    policy = accelerator.state.fsdp_plugin.mixed_precision_policy
    assert policy.param_dtype == torch.bfloat16
    assert policy.reduce_dtype == torch.float32  # of gradients
    assert policy.output_dtype is None  # of the loss


def test_float32_gathers_float32(accelerator):
    accelerator.mixed_precision = "no"
    keep_exact(accelerator)
    assert accelerator.state.fsdp_plugin.mixed_precision_policy.param_dtype is None


def test_more_layers_may_be_compiled_than_torch_would(accelerator):
    before = torch._dynamo.config.recompile_limit
    with compiled_by_layer(52):
        assert torch._dynamo.config.recompile_limit > 52
    assert torch._dynamo.config.recompile_limit == before


def test_a_norm_that_is_whole_stays(accelerator):
    norm = torch.tensor(2.0)
    assert whole(norm) is norm


@pytest.mark.parametrize(("section", "plan"), [("lora", {"rank": 2}), ("distillation", {})])
def test_adapters_and_teachers_are_not_sharded(plain_data, section, plan):
    plain_data["training"]["sharding"] = "full"
    plain_data[section] = plan
    with pytest.raises(UserError, match=f"'{section}' section do not go together yet"):
        decode(Recipe, plain_data, "recipe.yaml")


def trained(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return a layer and its optimizer after two steps."""
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def test_what_is_read_is_what_was_begun_whatever_training_did_since(tmp_path):
    model, optimizer = trained(seed=0)
    weight, moment = model.weight.detach().clone(), optimizer.state[model.weight]["exp_avg"].clone()
    checkpoints, done = ShardedCheckpoints(), []
    checkpoints.begin(tmp_path, model, optimizer, lambda: done.append(True))
    with torch.no_grad():
        model.weight.zero_()
        optimizer.state[model.weight]["exp_avg"].zero_()
    checkpoints.wait()
    assert done == [True]

    other, others = trained(seed=1)
    ShardedCheckpoints().load(tmp_path, other, others)
    assert torch.equal(other.weight, weight)
    assert torch.equal(others.state[other.weight]["exp_avg"], moment)


def test_what_cannot_be_written_is_never_called_done_and_says_so(tmp_path):
    (tmp_path / "shards").write_text("in the way")
    checkpoints, done = ShardedCheckpoints(), []
    with pytest.raises(OSError, match="shards"):
        begin_and_wait(checkpoints, tmp_path, done)
    assert done == []


def begin_and_wait(checkpoints: ShardedCheckpoints, folder, done: list) -> None:
    checkpoints.begin(folder, *trained(seed=0), lambda: done.append(True))
    checkpoints.wait()
