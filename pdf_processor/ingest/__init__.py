"""Streaming documents to Go, and what its answers mean."""
