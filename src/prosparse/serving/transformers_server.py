# SPDX-License-Identifier: Apache-2.0
"""The server of `transformers serve`, for a model that we loaded and accelerated, with our metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch

from prosparse.model.checkpoint import load, load_tokenizer
from prosparse.model.device import choose_device
from prosparse.model.ffn import ffns
from prosparse.runtime.accelerate import accelerate
from prosparse.runtime.sparse_ffn import PATH
from prosparse.serving.live import live

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def run_transformers(
    model: str, host: str, port: int, dtype: str, device: str, max_tokens: int
) -> None:
    """Load a model, give it its sparse path and serve it until interrupted.

    Raises:
        UserError: It cannot be loaded or has no sparse path.
    """
    from prometheus_client import make_asgi_app
    from transformers.cli import serve
    from transformers.cli.serving import model_manager

    tokenizer = load_tokenizer(model)
    wanted = None if dtype == "auto" else getattr(torch, dtype)
    network = load(model, dtype=wanted, device=choose_device(device))
    print(accelerate(network, max_tokens=max_tokens))  # noqa: T201 - says which kernels run
    watch(network, max_tokens)

    class OneModel(model_manager.ModelManager):
        """Hands out the model that is here already."""

        def _load_processor(self, *_: Any, **__: Any) -> Any:
            return tokenizer

        def _load_model(self, *_: Any, **__: Any) -> Any:
            return network

    class Server(serve.Serve):
        """Runs in this thread, where it sees Ctrl-C, with /metrics."""

        def start_server(self) -> None:
            self.server.config.app.mount("/metrics", make_asgi_app())
            self.server.run()

    # transformers' own manager would load the model anew, and knows none of the published formats.
    with patch.object(model_manager, "ModelManager", OneModel):
        Server(force_model=model, host=host, port=port, non_blocking=True)


def watch(network: PreTrainedModel, max_tokens: int) -> None:
    """Let `live()` take notice of every FFN call of an accelerated model.

    In opt, whose FFNs are no modules of their own, nothing is seen.
    """
    for ffn in ffns(network):
        if ffn.family.ffn == "":
            continue
        path = vars(ffn.module if ffn.is_gated else ffn.down)[PATH]

        def note(_: torch.nn.Module, inputs: tuple[Any, ...], path: Any = path) -> None:
            x_TD = inputs[0].reshape(-1, inputs[0].shape[-1])
            live().note(x_TD, len(x_TD) <= max_tokens, path.weights)

        ffn.module.register_forward_pre_hook(note)
