#!/bin/sh
# What benches compare to, in an environment of its own: sglang-router and LiteLLM's proxy, 700 MB.
set -eu
cd "$(dirname "$0")/.."
"${PYTHON:-python3.11}" -m venv .venv/peers
.venv/peers/bin/pip install --quiet --require-hashes --requirement requirements/peers.txt
