# SPDX-License-Identifier: Apache-2.0
"""Write training and held-out text that every machine with Python has.

    python examples/demo_data.py demo/data

`prose` is the language reference as pydoc carries it; `code` is the standard library's sources.
Whole documents are held out, chosen by a hash of their name, so both splits are the same on every
machine that has the same Python.
"""

import hashlib
import json
import sys
import sysconfig
from pathlib import Path
from pydoc_data.topics import topics

HELD_OUT_SHARE = {"prose": 0.25, "code": 0.05}


def prose() -> dict[str, str]:
    return {name: text.strip() for name, text in topics.items()}


def code() -> dict[str, str]:
    library = Path(sysconfig.get_path("stdlib"))
    files = sorted([*library.glob("*.py"), *library.glob("*/*.py")])
    wanted = [path for path in files if not {"site-packages", "test", "tests"} & set(path.parts)]
    texts = {
        str(path.relative_to(library)): path.read_text(encoding="utf-8", errors="replace")
        for path in wanted
        if path.name != "topics.py"  # the prose component itself
    }
    return {name: text for name, text in texts.items() if 2_000 < len(text) < 60_000}


def place(name: str) -> float:
    """Return a number in [0, 1) that depends on the name only."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for component, documents in (("prose", prose()), ("code", code())):
        names = sorted(documents, key=place)
        num_held_out = round(len(names) * HELD_OUT_SHARE[component])
        for split, chosen in (("valid", names[:num_held_out]), ("train", names[num_held_out:])):
            path = folder / f"{component}.{split}.jsonl"
            lines = [json.dumps({"text": documents[name], "source": name}) for name in chosen]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            size = sum(len(documents[name]) for name in chosen)
            print(f"{path}: {len(chosen)} documents, {size / 1e6:.2f} M characters")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo/data"))
