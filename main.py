"""`uv run python main.py`: the daemon, or one of the commands that `--help` lists."""


def main() -> None:
    """Import late: a spawned child that imports this module gets nothing of the daemon."""
    from pdf_processor.cli import run  # noqa: PLC0415

    run()


if __name__ == "__main__":
    main()
