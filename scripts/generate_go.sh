#!/usr/bin/env bash
# Generates examples/go-backend/pb from protos/cognicore.proto: protoc is the one of
# grpcio-tools, the plugins are the ones that the module's go.mod pins. With --check
# it writes nothing and fails when the committed files are not what it would write.
set -euo pipefail
cd "$(dirname "$0")/.."
module=examples/go-backend

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

generate() {
  GOBIN="$scratch/bin" go -C "$module" install tool
  PATH="$scratch/bin:$PATH" uv run --all-extras python -m grpc_tools.protoc -I. \
    --go_out="$1" --go_opt=module=cognicore \
    --go-grpc_out="$1" --go-grpc_opt=module=cognicore \
    protos/cognicore.proto
}

if [ "${1:-}" = "--check" ]; then
  mkdir "$scratch/fresh"
  generate "$scratch/fresh"
  diff -r "$scratch/fresh/pb" "$module/pb" || {
    echo "$module/pb is stale: run scripts/generate_go.sh and commit" >&2
    exit 1
  }
else
  generate "$module"
fi
