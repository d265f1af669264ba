"""vLLM on loopback: a server is handed over when it really answers, and is gone when it is not needed any more.

with family() as servers:
    decoder = RewardGuidedDecoder(drafter=load(servers["draft"].spec), …)
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from tokenizers import Tokenizer

from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.embedded.vocabulary import STEP_END
from rsd_integrations.huggingface import to_gguf

ROOT = Path(__file__).parent.parent.parent
PYTHON = ROOT / ".venv-servers" / "bin" / "python"
LOGS = ROOT / "build" / "servers"
PORTS = range(18400, 18500)
PATIENCE = 420.0
"""Seconds until a server must have answered; on an idle machine with two cores it takes half a minute."""
KEYS_AND_VALUES = 256 * 2**20
"""Bytes for keys and values of each server: 18,000 tokens of the embedded target, 32 requests of its whole context."""
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TORCH_COMPILE_DISABLE": "1",  # else the first log-probabilities wait 20 s for a compiler
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # keeps the worker in the engine's process: in a separate one, it spins
}
CALLS_TOOLS = (
    *("--enable-auto-tool-choice", "--tool-call-parser=hermes"),
    # Small models would write white space without end where a grammar allows it.
    '--structured-outputs-config={"backend": "xgrammar", "disable_any_whitespace": true}',
)
"""Arguments of vLLM for whole turns that call tools or have a format."""


class ServerError(RuntimeError):
    """A server ended, or did not answer in time."""


class Server:
    """A server in its own session: vLLM, unless a subclass says otherwise.

    Args:
        name: What the model is called in requests.
        folder: Its checkpoint. vLLM needs attention heads of a size its CPU kernels know, such as 32.
        pooling: Whether it is a reward model, read through /pooling.
        arguments: Further arguments of vLLM.
        window: Longest sequence, in tokens.
        port: On loopback; a free one by default.
    """

    environment: Mapping[str, str] = ENVIRONMENT
    """Variables that it is started with."""
    program = PYTHON
    """What has to be installed for it."""

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        pooling: bool = False,
        arguments: tuple[str, ...] = (),
        window: int = 512,
        port: int | None = None,
    ) -> None:
        self.name, self.folder, self.pooling, self.arguments = name, folder, pooling, arguments
        self.window = window
        self.port = port or free_port()
        self.log = LOGS / f"{name}-{self.port}.log"
        self._guard: subprocess.Popen[str] | None = None
        self._group = 0
        self._alias = f"{name}-{uuid.uuid4().hex[:8]}"  # only this server knows it: another one may have taken the port

    @property
    def url(self) -> str:
        """The base URL, as OpenAI's client takes it."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def spec(self) -> str:
        """What `rsd_core.load` takes; prompts are rendered and tokenised by the checkpoint's own tokenizer."""
        kind = "pooling" if self.pooling else "openai"
        return f"{kind},tokenizer={self.folder}:{self.name}@{self.url}"

    def start(self) -> None:
        """Start the server; `wait` says when it answers."""
        if not self.program.exists():
            raise ServerError(f"there is no {self.program}: `make servers` installs it")
        LOGS.mkdir(parents=True, exist_ok=True)
        with self.log.open("w") as log:
            self._guard = subprocess.Popen(
                [sys.executable, "-m", "tests.servers.guard", *self._command()],
                cwd=ROOT,
                env={**os.environ, **self.environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self._guard.stdout is not None
        self._group = int(self._guard.stdout.readline())

    def _command(self) -> list[str]:
        return [
            *(str(PYTHON), "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(self.folder), "--served-model-name", self.name, self._alias),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--max-model-len", str(self.window), "--dtype", "float32", "--enforce-eager"),
            *("--kv-cache-memory-bytes", str(KEYS_AND_VALUES), "--shutdown-timeout", "5"),
            *("--uvicorn-log-level", "warning", "--distributed-executor-backend", "uni"),
            *(("--runner", "pooling") if self.pooling else ("--enable-prompt-tokens-details",)),
            *self.arguments,
        ]

    def wait(self, seconds: float = PATIENCE) -> None:
        """Wait until the server computes something: its health alone promises nothing.

        Raises:
            ServerError: It ended, or was silent for so long.
        """
        assert self._guard is not None
        patience = time.monotonic() + seconds
        while not self.answers():
            if self._guard.poll() is not None or time.monotonic() > patience:
                why = "did not answer in time" if self._guard.poll() is None else "ended"
                raise ServerError(f"the server {self.name} {why}; {self.log} ends in\n{self.log.read_text()[-3000:]}")
            time.sleep(0.5)

    def answers(self) -> bool:
        """Whether one token is computed."""
        root = self.url.removesuffix("/v1")
        body: dict[str, Any] = {"model": self._alias}
        path, more = (
            ("/pooling", {"input": [5]}) if self.pooling else ("/v1/completions", {"prompt": [5], "max_tokens": 1})
        )
        try:
            return httpx.post(root + path, json=body | more, timeout=60).is_success
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        """End the server as a crash would; `start` and `wait` bring it back."""
        os.killpg(self._group, signal.SIGKILL)
        self.stop()

    def let_go(self) -> None:
        """Have the server and everything it started end, without waiting for it."""
        if self._guard is not None:
            assert self._guard.stdin is not None
            self._guard.stdin.close()

    def stop(self) -> None:
        """End the server and everything it started."""
        if self._guard is not None:
            self.let_go()
            self._guard.wait()
            assert self._guard.stdout is not None
            self._guard.stdout.close()
            self._guard = None


class LlamaServer(Server):
    """llama.cpp's own server, llama-server, in its own session; arguments as for `Server`.

    Args:
        slots: How many requests it works on at once, each with a whole window.
    """

    def __init__(self, name: str, folder: Path, *, slots: int = 1, **options: Any) -> None:
        super().__init__(name, folder, **options)
        self.slots = slots

    _scratch: tempfile.TemporaryDirectory[str] | None = None

    def start(self) -> None:
        self._scratch = tempfile.TemporaryDirectory()
        self._file = to_gguf.export(str(self.folder), Path(self._scratch.name) / f"{self.name}.gguf")
        super().start()

    def stop(self) -> None:
        super().stop()
        if self._scratch is not None:  # only now: the server has the file mapped
            self._scratch.cleanup()

    def _command(self) -> list[str]:
        return [
            str(PYTHON),
            "-m",
            "tests.servers.llamacpp",
            str(self._file),
            str(self.port),
            self.name,
            str(self.window),
            str(self.slots),
        ]


@contextmanager
def running(*servers: Server) -> Iterator[None]:
    """Servers side by side: all answer when the block begins, all are gone when it ends."""
    try:
        for server in servers:
            server.start()
        for server in servers:
            server.wait()
        yield
    finally:
        for server in servers:
            server.let_go()
        for server in servers:
            server.stop()


@contextmanager
def family() -> Iterator[dict[str, Server]]:
    """The embedded drafter, target and reward model, by their names `draft`, `target` and `prm`."""
    servers = {
        "draft": Server("draft", FOLDER / "draft", arguments=CALLS_TOOLS),
        "target": Server("target", FOLDER / "target"),
        "prm": Server("prm", FOLDER / "prm", pooling=True, arguments=step_tag(FOLDER / "prm", STEP_END)),
    }
    with running(*servers.values()):
        yield servers


def step_tag(folder: Path, separator: str) -> tuple[str, ...]:
    """Arguments that make vLLM give a row at each separator, which it looks for at Qwen2.5-Math-PRM's id otherwise."""
    tag = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(separator)
    return "--pooler-config", json.dumps({"pooling_type": "STEP", "step_tag_id": tag})


_locks: list[int] = []


def free_port() -> int:
    """A free port that no other launcher on this machine takes while this process lives."""
    for port in PORTS:
        lock = os.open(Path(tempfile.gettempdir()) / f"rsd-server-{port}.lock", os.O_CREAT | os.O_RDWR, 0o666)
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) != 0:
                    _locks.append(lock)
                    return port
        os.close(lock)
    raise ServerError(f"all ports from {PORTS.start} to {PORTS.stop - 1} are in use")
