"""What `demo` needs to run without anything installed: a Valkey, and a small ingest receiver."""
