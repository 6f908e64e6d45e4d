# SPDX-License-Identifier: Apache-2.0
"""Serve a sparse model, ask it as any program asks OpenAI's servers, and see how sparse it was.

python examples/16_serve.py MODEL PROMPT
"""

import multiprocessing
import socket
import sys
import time
import urllib.request

from openai import OpenAI

import prosparse as ps


def start(model: str) -> tuple[multiprocessing.Process, str]:
    """Start a server on a free port and wait until it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # With vLLM installed leave `engine` out: it answers many requests at once.
    options = {"port": port, "engine": "transformers"}
    server = multiprocessing.get_context("spawn").Process(
        target=ps.serve, args=(model,), kwargs=options
    )
    server.start()
    address = f"http://127.0.0.1:{port}"
    while server.is_alive():
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).close()
            return server, address
        except OSError:
            time.sleep(0.2)
    sys.exit("the server ended; what it said is above")


def main(model: str, prompt: str) -> None:
    server, address = start(model)
    client = OpenAI(base_url=f"{address}/v1", api_key="none")
    pieces = client.completions.create(
        model=model, prompt=prompt, max_tokens=64, temperature=0, stream=True
    )
    print(prompt, *(piece.choices[0].text for piece in pieces), sep="")
    with urllib.request.urlopen(f"{address}/metrics") as page:
        metrics = page.read().decode().splitlines()
    print(*(line for line in metrics if line.startswith("prosparse_")), sep="\n")
    server.terminate()
    print(
        "\nprosparse_sparsity is the share of zeros on your own prompt; prosparse_weights_skipped,"
    )
    print("what was not read of the FFNs, is smaller: the gate is always read.")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
