# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face hub on this machine, as far as its client needs one to make, fill and read a model."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0" * 40
TOKEN = "hf_secret"


class _Handler(BaseHTTPRequestHandler):
    """Answers for `server.repos`: the files of each repository, by its name."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        parts = self.path.split("/")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            name = f"me/{json.loads(body)['name']}"
            self.server.repos.setdefault(name, {})
            self.server.made.append(json.loads(body))
            self._answer(200, {"url": f"{self.server.address}/{name}"})
        elif "preupload" in parts:
            asked = json.loads(body)["files"]
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked
            ]
            self._answer(200, {"files": files})
        elif "commit" in parts:
            repo = "/".join(parts[3:5])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.repos[repo][line["value"]["path"]] = content
            url = f"{self.server.address}/{repo}/commit/{COMMIT}"
            self._answer(200, {"success": True, "commitOid": COMMIT, "commitUrl": url})
        else:  # api/validate-yaml
            self._answer(200, {"errors": [], "warnings": []})

    def do_GET(self):
        repo, _, path = self.path.removeprefix("/").partition("/resolve/")
        content = self.server.repos.get(repo, {}).get(path.partition("/")[2])
        if content is None:
            self._answer(404, {}, {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        self._answer(200, content, headers)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass

    def _answer(self, status, content, headers=None):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


class LocalHub:
    """The hub: what it holds, and the two ways to use it: in this process, and in one that knows no other.

    `repos` has the files of each repository, by name; `made` what was asked for in making them.
    """

    def __init__(self, server, folder):
        self.repos, self.made = server.repos, server.made
        self._server, self._folder = server, folder

    def use(self, monkeypatch):
        """Make it the hub of this process, until the test ends."""
        file = self._server.address + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": self._server.address,
            "HUGGINGFACE_CO_URL_TEMPLATE": file,
            "HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        # transformers keeps a client, which would know another hub; older versions keep none.
        monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)

    def run(self, script, *arguments):
        """Run Python in another process, with a cache of its own."""
        wanted = {
            "HF_ENDPOINT": self._server.address,
            "HF_HOME": str(self._folder),
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": TOKEN,
        }
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "PYTHONPATH", "HOME")}
        command = [sys.executable, "-c", script, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env={**kept, **wanted})


@contextmanager
def local_hub(folder):
    """Run a hub, whose client keeps its things in `folder`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.repos, server.made = {}, []
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield LocalHub(server, folder)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
