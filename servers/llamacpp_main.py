"""Serves one GGUF file with llama.cpp. Runs inside the engine's own environment, so it imports nothing of the harness.

Prints ``{"ready": true, "port": P, "version": V, "model": NAME}`` on standard output once it listens; everything
else, llama.cpp's own log included, goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from importlib.metadata import version
from typing import NoReturn
from urllib.parse import urlsplit


def main() -> NoReturn:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--port", type=int, required=True, help="0: a free one")
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--context", type=int, required=True, help="tokens, shared evenly by the slots")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--http-threads", type=int, required=True)
    options = parser.parse_args()

    # The engine writes where it likes; what the launcher reads must hold nothing but the announcement.
    announce = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.model_alias = {options.name}
    params.hostnames = ["127.0.0.1"]
    params.port = options.port
    params.n_parallel = options.slots
    params.n_ctx = options.context
    params.n_threads_http = options.http_threads
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.threads
    params.endpoint_metrics = True
    params.ui = False
    server = xllamacpp.Server(params)
    with announce:
        json.dump(
            {
                "ready": True,
                "port": urlsplit(server.listening_address).port,
                "version": f"xllamacpp {version('xllamacpp')}",
                "model": options.name,
            },
            announce,
        )
        announce.write("\n")
    while True:
        signal.pause()  # TERM ends it: nothing here is worth saving


if __name__ == "__main__":
    main()
