# SPDX-License-Identifier: Apache-2.0
"""Find the FFN of an architecture that has no row in `prosparse.model.families`.

Names and shapes do not tell gate from up, so the model itself is asked: a few tokens go as far as
its first decoder layer, hooks note what enters and leaves every candidate part, and the one
arrangement of parts that explains the numbers, x_1 = act(gate(x)) * up(x) or x_1 = act(up(x)) at
the input of `down`, is the answer. What comes after `down` (residual, dropout, scale) does not
matter here. When no arrangement or more than one fits, the model is refused, never guessed at.
"""

from __future__ import annotations

import contextlib
import copy
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from prosparse.errors import UserError
from prosparse.model.families import FAMILIES, Family
from prosparse.model.quantized import QuantizedLinear

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedConfig, PreTrainedModel

NUM_PROBE_TOKENS = 16
# Relative, root-mean-square. Far above bfloat16 rounding, far below any wrong arrangement.
TOLERANCE = 1e-2

Calls = dict[nn.Module, tuple[Tensor, Tensor]]
"""What went into and came out of each part."""


def find_family(model: PreTrainedModel) -> Family:
    """Return how to find the FFNs of a model, from the structure of the model alone.

    Args:
        model: A causal language model; it runs on 16 tokens, no further than its first layer.

    Raises:
        UserError: Not exactly one FFN was recognized in a layer, the layers hold experts, or the
            activation function cannot be changed without changing something else.
    """
    path, layers = _decoder_layers(model)
    if any(name.rpartition(".")[2] == "experts" for name, _ in layers.named_modules()):
        raise UserError(
            f"This '{model.config.model_type}' model is a mixture of experts ({path}.*.experts); "
            "prosparse works on models with one dense FFN in each layer."
        )
    owners = {
        name: module
        for name, module in layers[0].named_modules()
        if sum(_is_projection(part) for part in module.children()) >= 2
    }
    calls = _probe(model, layers[0], list(owners.values()))
    found = [
        Family(path, name, gate, up, down, activation, None, fused)
        for name, owner in owners.items()
        for gate, up, down, activation, fused in _arrangements(owner, calls)
    ]
    if len(found) != 1:
        tried = ", ".join(f"{path}.0.{name}".rstrip(".") for name in owners) or "none"
        raise _refusal(model, f"{len(found)} (modules that own two or more projections: {tried})")
    return replace(found[0], config_key=_config_key(model, found[0], len(layers)))


def _decoder_layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Return the longest ModuleList and its path; lists within a list (experts) do not count."""
    outermost: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in outermost)
        if isinstance(module, nn.ModuleList) and len(module) and not inside:
            outermost[name] = module
    if not outermost:
        raise _refusal(model, "no ModuleList of layers")
    path, layers = max(outermost.items(), key=lambda item: len(item[1]))
    alike = [name for name, other in outermost.items() if type(other[0]) is type(layers[0])]
    if len(alike) > 1:
        raise UserError(
            f"The layers of this '{model.config.model_type}' model spread over {', '.join(alike)}; "
            "prosparse works on models with one list of decoder layers."
        )
    return path, layers


def _probe(model: PreTrainedModel, layer: nn.Module, owners: list[nn.Module]) -> Calls:
    """Run the model up to the end of `layer`; return what the owners' children did."""
    calls: Calls = {}

    class LayerDone(Exception):
        """Ends the forward pass: what follows the layer is of no interest."""

    def note(module: nn.Module, args: tuple[object, ...], output: object) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            calls[module] = (args[0], output)

    def stop(*_: object) -> None:
        raise LayerDone

    modes = {module: module.training for module in model.modules()}
    with contextlib.ExitStack() as handles:
        for owner in owners:
            for part in owner.children():
                handles.enter_context(part.register_forward_hook(note))
        handles.enter_context(layer.register_forward_hook(stop))
        model.eval()  # a dropout would blur the numbers
        try:
            embeddings = cast("Tensor", model.get_input_embeddings().weight)
            tokens = torch.arange(NUM_PROBE_TOKENS, device=embeddings.device) % len(embeddings)
            with torch.no_grad(), contextlib.suppress(LayerDone):
                model(input_ids=tokens[None])
        except Exception as error:  # someone else's forward may fail in any way
            raise _refusal(model, f"that it does not run on token ids ({_brief(error)})") from error
        finally:
            for module, training in modes.items():
                module.training = training
    return calls


def _arrangements(
    owner: nn.Module, calls: Calls
) -> Iterator[tuple[str | None, str, str, str, bool]]:
    """Yield every (gate, up, down, activation, fused) of the owner's children that fits."""
    ran = {name: part for name, part in owner.named_children() if part in calls}
    projections = {name: calls[part] for name, part in ran.items() if _is_projection(part)}
    for activation, part in ran.items():
        if activation in projections:
            continue
        for gate, up, fused, expected in _intermediates(projections, *calls[part]):
            for down, (x_1, _) in projections.items():
                if _same(x_1, expected) and _is_activation(part, *calls[part]):
                    yield gate, up, down, activation, fused


def _intermediates(
    projections: dict[str, tuple[Tensor, Tensor]], before: Tensor, after: Tensor
) -> Iterator[tuple[str | None, str, bool, Tensor]]:
    """Yield every (gate, up, fused, x_1) that an activation from `before` to `after` allows."""
    for name, (x, y) in projections.items():
        first, *second = y.chunk(2, dim=-1)
        if _same(y, before):
            yield None, name, False, after
            for up, (up_x, up_y) in projections.items():
                if up != name and _same(up_x, x) and up_y.shape == after.shape:
                    yield name, up, False, after * up_y
        elif _same(first, before):
            yield None, name, True, after * second[0]


def _is_projection(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | Conv1D | QuantizedLinear)


def _is_activation(part: nn.Module, before: Tensor, after: Tensor) -> bool:
    """Whether a part acts on each entry alone (a norm does not) and changes it (dropout does not).

    The second half of the input is changed; the first half of the output must not notice.
    """
    if _same(before, after) or before.shape != after.shape:
        return False
    half = before.shape[-1] // 2
    changed = torch.cat([before[..., :half], 3 * before[..., half:]], dim=-1)
    with torch.no_grad():
        return _same(part(changed)[..., :half], after[..., :half])


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree up to rounding; all zeros prove nothing and agree with nothing."""
    if a.shape != b.shape:
        return False
    error, size = (a.float() - b.float()).norm(), b.float().norm()
    return bool(size > 0) and bool(error <= TOLERANCE * size)


def _config_key(model: PreTrainedModel, family: Family, num_layers: int) -> str | None:
    """Return the config field that names the activation function of the FFNs and of nothing else.

    The model's own constructor is asked: what does it build when that field names another one?
    """
    ffn_modules = {
        ".".join(part for part in (family.layers, str(index), family.ffn) if part)
        for index in range(num_layers)
    }
    activations = {f"{name}.{family.activation}" for name in ffn_modules}
    fields = model.config.get_text_config().to_dict()
    built = _built_by(model, model.config)
    for key in sorted({row.config_key for row in FAMILIES.values() if row.config_key}):
        if not isinstance(fields.get(key), str):
            continue
        config = copy.deepcopy(model.config)
        setattr(config.get_text_config(), key, "silu" if fields[key] == "relu" else "relu")
        changed = {name for name, _ in built ^ _built_by(model, config)}
        elsewhere = sorted(changed - activations - ffn_modules)
        if elsewhere:
            raise UserError(
                f"In the config of this '{model.config.model_type}' model '{key}' names not only the "
                f"activation function of the FFNs but also sets {elsewhere[0]}, which must stay as "
                "it is; prosparse cannot write such a model with another activation function."
            )
        if activations <= changed:
            return key
    return None


def _built_by(model: PreTrainedModel, config: PreTrainedConfig) -> set[tuple[str, str]]:
    """Return the name of every module that a config makes, with its class and its text settings."""
    try:
        with torch.device("meta"):  # no weights: costs neither memory nor random numbers
            twin = type(model)(config)
    except Exception as error:  # someone else's constructor may fail in any way
        raise _refusal(model, f"that its config does not build it ({_brief(error)})") from error
    return {
        (name, f"{type(module)} {[value for value in vars(module).values() if type(value) is str]}")
        for name, module in twin.named_modules()
    }


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _refusal(model: PreTrainedModel, found: str) -> UserError:
    model_type = model.config.model_type
    return UserError(
        f"'{model_type}' is not a known model family and its FFN was not understood: prosparse "
        "looked in the first decoder layer for projections with an activation module such that "
        f"down's input is act(gate(x)) * up(x) or act(up(x)), and found {found}; describe the "
        f'model by a row of prosparse/model/families.py: FAMILIES["{model_type}"] = Family(layers='
        "..., ffn=..., gate=..., up=..., down=..., activation=..., config_key=...)."
    )
