"""llama.cpp's own server around a GGUF file, in the environment of the servers: `xllamacpp` brings llama-server.

python -m tests.servers.llamacpp FILE PORT NAME WINDOW SLOTS
"""

from __future__ import annotations

import sys
import threading

import xllamacpp


def main() -> None:
    """Serve until killed."""
    file, port, name, window, slots = sys.argv[1:]
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.model_alias = {name}
    params.hostnames, params.port = ["127.0.0.1"], int(port)
    # Cells are shared out among the slots, so that each has its own window.
    params.n_ctx, params.n_parallel, params.warmup = int(window) * int(slots), int(slots), False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
