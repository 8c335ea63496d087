"""The Python side of a Go backend's documents: PDF in, embedded chunks out."""

__version__ = "0.1.0"
