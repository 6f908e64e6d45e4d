# SPDX-License-Identifier: Apache-2.0
"""FSDP2 through accelerate: what the Trainer does not choose by itself.

Every process holds a share of the weights, gradients and moments, all float32, and gathers the
weights of one decoder layer at a time, in bfloat16 where that is the precision of the run.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from accelerate import Accelerator
    from torch import Tensor, nn


def fsdp_arguments() -> dict[str, Any]:
    """Return the TrainingArguments of full sharding."""
    return {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "reshard_after_forward": True,
            # The Trainer then gathers nothing: `prosparse.training.sharded_checkpoints` saves.
            "state_dict_type": "SHARDED_STATE_DICT",
        },
    }


def is_sharded(model: nn.Module) -> bool:
    """Return whether a forward pass of the model needs every process."""
    return isinstance(model, FSDPModule)


def keep_exact(accelerator: Accelerator) -> None:
    """Keep losses and gradient sums in float32, and compile layer by layer; before `prepare`.

    accelerate would reduce gradients in the precision of the products, and would round what the
    model returns to it, the loss among it. A whole model compiled at once would run past the hooks
    that gather its weights.
    """
    plugin, compilation = accelerator.state.fsdp_plugin, accelerator.state.dynamo_plugin
    assert plugin is not None
    assert compilation is not None
    is_bfloat16 = accelerator.mixed_precision == "bf16"
    plugin.mixed_precision_policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if is_bfloat16 else None, reduce_dtype=torch.float32
    )
    compilation.use_regional_compilation = True


@contextmanager
def compiled_by_layer(num_layers: int) -> Iterator[None]:
    """Compile inside the block as often as there are layers, where that must be.

    Layers with the fused FFN share one compiled code. One whose x_1 is watched by a hook has its own,
    and torch would stop compiling after eight.
    """
    with torch._dynamo.config.patch(
        recompile_limit=max(torch._dynamo.config.recompile_limit, 4 * num_layers)
    ):
        yield


def whole(norm: Tensor) -> Tensor:
    """Return a norm over all processes: of sharded gradients each process has only a part."""
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights on the CPU of the main process, and nothing elsewhere; every process calls.

    Tied ones come under one name, as transformers writes them.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = cast("dict[str, Tensor]", get_model_state_dict(model, options=options))
    once = {name for name, _ in model.named_parameters()}
    again = {name for name, _ in model.named_parameters(remove_duplicate=False)} - once
    return {name: weight for name, weight in weights.items() if name not in again}
