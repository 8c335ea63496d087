#!/usr/bin/env bash
# Generates the Python stubs from protos/cognicore.proto. With --check it writes
# nothing and fails when the committed ones are not what it would write.
set -euo pipefail
cd "$(dirname "$0")/.."

generate() {
  uv run --all-extras python -m grpc_tools.protoc -I. \
    --python_out="$1" --grpc_python_out="$1" --mypy_out="$1" --mypy_grpc_out="$1" \
    protos/cognicore.proto
}

if [ "${1:-}" = "--check" ]; then
  fresh=$(mktemp -d)
  trap 'rm -rf "$fresh"' EXIT
  generate "$fresh"
  for file in "$fresh"/protos/*; do
    cmp "$file" "protos/$(basename "$file")" || {
      echo "protos/ is stale: run scripts/generate_protos.sh and commit" >&2
      exit 1
    }
  done
else
  generate .
fi
