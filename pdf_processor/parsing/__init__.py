"""The child's side of reading PDFs: everything that touches a hostile file.

Imports the standard library, pymupdf, orjson, `document` and `errors`, and nothing of
the daemon; `parser_pool` is the parent's side.
"""
