"""Sections to chunks: pure, no I/O."""
