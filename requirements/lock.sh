#!/bin/sh
# Makes the lock files anew: hashes, and no address of any index.
set -eu
UV=${UV:-uv}
compile() {
  "$UV" pip compile -q --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-header --no-annotate "$@"
}
compile pyproject.toml -o requirements/core.txt
compile --group pyproject.toml:build -c requirements/core.txt -o requirements/build.txt
compile --group pyproject.toml:dev -c requirements/core.txt -o requirements/dev.txt
compile requirements/peers.in -o requirements/peers.txt
compile --no-deps requirements/engine.in -o src/madang/engines/requirements.txt
tiny=examples/train-a-tiny-llm
compile --no-deps -c requirements/core.txt $tiny/requirements.in -o $tiny/requirements.txt
