"""The wire contract with Go, and the stubs that scripts/generate_protos.sh makes of it."""
