"""llama.cpp's own server around a GGUF file, in the environment of the servers: `xllamacpp` brings llama-server.

python -m tests.servers.llamacpp FILE PORT NAME WINDOW
"""

from __future__ import annotations

import sys
import threading

import xllamacpp


def main() -> None:
    """Serve until killed."""
    file, port, name, window = sys.argv[1:]
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.model_alias = {name}
    params.hostnames, params.port = ["127.0.0.1"], int(port)
    params.n_ctx, params.n_parallel, params.warmup = int(window), 1, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
