# SPDX-License-Identifier: Apache-2.0
"""Teach transformers our activations and our quantized format when, and only when, it is used.

After `import prosparse`, a checkpoint with `hidden_act: fatrelu` loads through transformers' own
`AutoModelForCausalLM`, and so does one that `prosparse.quantize` wrote. That takes three things, all
done the moment transformers' model code is imported: the names go into its activation table, the
format among its quantizers, and every model, once built, hands its `hidden_act_param` to its
activation modules and gets what no activation module can do alone (dReLU, thresholds on the FFN's
inputs). Its config also loses the name of our code, which transformers would save without the file.
Waiting for that import keeps `import prosparse` itself almost free.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

HOST = "transformers.modeling_utils"


def register() -> None:
    """Register with transformers now if its model code is loaded, else as soon as it is."""
    if HOST in sys.modules:
        _teach(sys.modules[HOST])
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


class _AfterImport(importlib.abc.MetaPathFinder):
    """Finds the host module as Python would, and calls `_teach` once it has run."""

    def find_spec(
        self, fullname: str, path: Any, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != HOST:
            return None
        sys.meta_path.remove(self)  # one shot; also lets the search below reach the real finder
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_then_teach(module: ModuleType) -> None:
            run(module)
            _teach(module)

        spec.loader.exec_module = run_then_teach  # type: ignore[method-assign]
        return spec


def _teach(modeling_utils: ModuleType) -> None:
    from transformers.activations import ACT2CLS, ACT2FN

    from prosparse.model import quantized_format
    from prosparse.model.activation import SPARSE_ACTIVATIONS
    from prosparse.model.drelu import fit_model
    from prosparse.model.input_thresholds import cut_inputs
    from prosparse.model.standalone import forget_code

    quantized_format.register()
    for name in SPARSE_ACTIVATIONS.keys() - {"relu"}:
        # ACT2FN is a copy of ACT2CLS made at import; models look their activation up in it.
        ACT2CLS[name] = ACT2FN[name] = SPARSE_ACTIVATIONS[name]  # type: ignore[index]

    base = modeling_utils.PreTrainedModel
    post_init = base.post_init
    if getattr(post_init, "fills_in_activations", False):
        return

    @functools.wraps(post_init)
    def post_init_and_fill_in(self: Any, *args: Any, **kwargs: Any) -> None:
        post_init(self, *args, **kwargs)
        _fill_in(self)
        fit_model(self)
        cut_inputs(self)
        forget_code(self)

    post_init_and_fill_in.fills_in_activations = True  # type: ignore[attr-defined]
    base.post_init = post_init_and_fill_in


def _fill_in(model: Any) -> None:
    from prosparse.errors import UserError
    from prosparse.model.activation import PARAM_KEY, ShiftedReLU, Thresholded, params_of_layers

    # A family's FFNs are built in the order of its layers, so this is that order.
    empty = [
        module
        for module in model.modules()
        if isinstance(module, Thresholded | ShiftedReLU) and module.param is None
    ]
    if not empty:
        return
    param = getattr(model.config.get_text_config(), PARAM_KEY, None)
    numbers = param if isinstance(param, list) else [param] * len(empty)
    if not all(isinstance(number, int | float) for number in numbers):
        raise UserError(
            f"The config of this {model.config.model_type} model names a "
            f"{type(empty[0]).__name__} activation but its {PARAM_KEY} is {param!r}; "
            f"set {PARAM_KEY} in config.json to a number, or to a list of one for each layer."
        )
    for module, number in zip(empty, params_of_layers(numbers, len(empty)), strict=True):
        module.param = number if number is None else float(number)
