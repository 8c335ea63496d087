"""Vectors for chunks: interchangeable providers behind one `Embedder`."""
