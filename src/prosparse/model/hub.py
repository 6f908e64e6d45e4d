# SPDX-License-Identifier: Apache-2.0
"""`prosparse push`: a checkpoint on the Hugging Face hub, with all that it takes to load it from there.

transformers' own `push_to_hub` uploads weights and config, for people who import prosparse. This takes
the card, the tokenizer and the code for those who do not, too.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from prosparse.errors import UserError
from prosparse.model.checkpoint import check_model, skeleton

if TYPE_CHECKING:
    from collections.abc import Iterator

CARD = "README.md"
WEIGHTS = "model*.safetensors"
NEEDED = (
    *("config.json", "generation_config.json", WEIGHTS, "model.safetensors.index.json", CARD),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("chat_template*", "modeling_*.py", "configuration_*.py"),
)
RECORDS = ("record.json", "recipe.yaml", "log.jsonl")


def push(
    model: str | Path,
    repo: str,
    *,
    private: bool | None = None,
    with_record: bool = False,
    overwrite: bool = False,
) -> str:
    """Upload a checkpoint to the Hugging Face hub and return the address of its page.

    You are whom `hf auth login`, or the variable HF_TOKEN, says. Where stock transformers cannot build the
    model and the code that can is not in the folder, it is added.

    Args:
        model: Folder of a checkpoint with a model card (README.md), as every verb writes it.
        repo: `OWNER/NAME`, or `NAME` for one of your own; it is made if it is not there.
        private: Whether a new repository is private; None is what the owner's are by default.
        with_record: Upload `record.json`, `recipe.yaml` and `log.jsonl` as well; they name the paths of
            your data.
        overwrite: Replace a model that the repository holds.

    Raises:
        UserError: The folder is no whole checkpoint or has no card, the repository holds a model, or the
            hub refuses or cannot be reached.

    Example:
        >>> import prosparse as ps
        >>> ps.push("runs/demo/model", "me/smollm2-135m-prosparse")
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    folder = Path(model).expanduser()
    names = _names(folder, with_record)
    api = HfApi(library_name="prosparse")
    with tempfile.TemporaryDirectory() as added, _told(repo):
        files = {name: folder / name for name in names} | _code_if_missing(folder, Path(added))
        url = api.create_repo(repo, private=private, exist_ok=True)
        if not overwrite and api.file_exists(url.repo_id, "config.json"):
            raise UserError(
                f"{url.repo_id} holds a model already; choose another name, or pass --overwrite to "
                "replace it."
            )
        operations = [CommitOperationAdd(name, path) for name, path in sorted(files.items())]
        api.create_commit(url.repo_id, operations, commit_message="Upload by prosparse")
    return str(url)


def _names(folder: Path, with_record: bool) -> list[str]:
    """Return the names of the files to upload.

    Raises:
        UserError: The folder is no checkpoint, or lacks weights or a card.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; push takes the folder of a checkpoint.")
    check_model(folder)
    wanted = (*NEEDED, *RECORDS) if with_record else NEEDED
    there = [path.name for path in folder.iterdir() if path.is_file()]
    names = [name for name in there if any(fnmatchcase(name, pattern) for pattern in wanted)]
    if not any(fnmatchcase(name, WEIGHTS) for name in names):
        raise UserError(f"{folder} has no weights, {WEIGHTS}: it is not a whole checkpoint.")
    if CARD not in names:
        raise UserError(
            f"{folder} has no {CARD}; say there what the model is and was made from, for whoever finds it "
            "on the hub."
        )
    return names


def _code_if_missing(folder: Path, added: Path) -> dict[str, Path]:
    """Return our code and a config that names it, by their names, where they are needed and not there."""
    from prosparse.model.formats.table import stock_config
    from prosparse.model.standalone import MODULE, needs_code, write_standalone

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    has_code = "auto_map" in config or (folder / f"{MODULE}.py").exists()
    if has_code or stock_config(config, str(folder)) is not None:
        return {}
    network = skeleton(folder)
    if not needs_code(network):
        return {}
    shutil.copy(folder / "config.json", added)
    write_standalone(network, added)
    return {path.name: path for path in added.iterdir()}


@contextlib.contextmanager
def _told(repo: str) -> Iterator[None]:
    """Turn what the hub's client raises into one sentence.

    Raises:
        UserError: What was refused, and why.
    """
    # HTTPError is the base of all that its HTTP client raises, which is another in other versions.
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError

    try:
        yield
    except HFValidationError as error:
        raise UserError(f"'{repo}' cannot be the name of a repository: {error}") from error
    except HfHubHTTPError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(
            f"The hub refuses {repo}: {reason}. Is that yours, and are you logged in (hf auth login)?"
        ) from error
    except (HTTPError, ConnectionError) as error:
        raise UserError(f"The hub cannot be reached: {error}") from error
