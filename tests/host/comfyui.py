"""A real ComfyUI for the tests: where it is, a server with the pack in it, and prompts sent to it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import psutil

PACK = Path(__file__).resolve().parents[2]
PACK_NAME = "ComfyUI-SlotID"
START_SECONDS = 600
PROMPT_SECONDS = 600

Graph = dict[str, dict[str, Any]]


def comfyui_path() -> Path | None:
    """The ComfyUI named by COMFYUI_PATH, or the one whose custom_nodes this pack lies in."""
    named = os.environ.get("COMFYUI_PATH")
    candidates = [Path(named)] if named else [PACK.parents[1]]
    return next((path for path in candidates if (path / "comfyui_version.py").is_file()), None)


def comfyui_python() -> str:
    return os.environ.get("COMFYUI_PYTHON", sys.executable)


def comfyui_version(path: Path) -> tuple[int, ...]:
    text = (path / "comfyui_version.py").read_text()
    return tuple(int(part) for part in re.search(r'__version__ = "([\d.]+)"', text)[1].split("."))


def complaints(log: str) -> list[str]:
    """Lines of a log that speak of this pack and of something wrong."""
    lines = [line for line in log.splitlines() if re.search(r"slot.?id", line, re.I)]
    return [line for line in lines if re.search(r"error|warn|fail|cannot|traceback", line, re.I)]


class NodeFailedError(Exception):
    """A node's error, as the page would show it. `node` is its id, `message` the text."""

    def __init__(self, node: str, message: str) -> None:
        super().__init__(f"node {node}: {message}")
        self.node, self.message = node, message


class Result(NamedTuple):
    """What a prompt gave: the outputs that the page shows, by node id, and the nodes that did not have to run."""

    outputs: dict[str, Any]
    cached: set[str]


class Server:
    """ComfyUI with the pack linked in, in a folder of its own."""

    def __init__(self, comfyui: Path, base: Path) -> None:
        self.base, self.log_file, self.startup_log = base, base / "server.log", ""
        (base / "custom_nodes").mkdir(parents=True)
        (base / "custom_nodes" / PACK_NAME).symlink_to(PACK, target_is_directory=True)
        (base / "input").mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        options = f"--cpu --base-directory {base} --database-url sqlite:///{base}/comfyui.db --port {self.port}"
        self._log = self.log_file.open("w")
        self._process = subprocess.Popen(
            [comfyui_python(), "main.py", *options.split(), "--disable-auto-launch"],
            cwd=comfyui,
            # The models are tiny: more threads wait for each other on a busy machine.
            env={"OMP_NUM_THREADS": "1", **os.environ},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def wait_until_up(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            try:
                self.get("/system_stats")
                self.startup_log = self.log()
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.5)
        raise RuntimeError(f"ComfyUI did not start:\n{self.log()[-4000:]}")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return json.load(answer)

    def text(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return answer.read().decode()

    def status(self, path: str) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def post(self, path: str, data: Any) -> Any:
        body = json.dumps(data).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            text = error.read()
        return json.loads(text) if text else None

    def cpu_seconds(self) -> float:
        """What the server has computed so far: on a busy machine the clock says little of what it does."""
        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    def forget(self) -> None:
        """Drop every cached result, so that the next prompt runs all of its nodes; loaded models stay."""
        self.post("/free", {"unload_models": False, "free_memory": True})
        # The worker reads the flag when it wakes, between prompts.
        time.sleep(0.5)

    def run(self, graph: Graph) -> Result:
        """Run a graph in API form to its end.

        Raises:
            NodeFailedError: the host refused a node, or one failed.
        """
        answer = self.post("/prompt", {"prompt": graph})
        for node, errors in (answer.get("node_errors") or {}).items():
            raise NodeFailedError(node, "\n".join(f"{e['message']}: {e['details']}" for e in errors["errors"]))
        end = time.monotonic() + PROMPT_SECONDS
        while time.monotonic() < end:
            entry = self.get(f"/history/{answer['prompt_id']}").get(answer["prompt_id"])
            if entry is None:
                time.sleep(0.1)
                continue
            messages = dict(entry["status"]["messages"])
            if "execution_error" in messages:
                error = messages["execution_error"]
                raise NodeFailedError(error["node_id"], error["exception_message"])
            return Result(entry["outputs"], set(messages["execution_cached"]["nodes"]))
        raise RuntimeError(f"the prompt did not end:\n{self.log()[-4000:]}")

    def file(self, found: dict[str, str]) -> Path:
        """Path of a file that an output names."""
        return self.base / found["type"] / found["subfolder"] / found["filename"]
