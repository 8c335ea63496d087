"""The command line: what a person can type, and how it ends.

Each command parses its words and hands over to its module in `commands/`. Exit 0 on
success, 1 on failure, 2 on wrong usage or configuration.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from pdf_processor import __version__, app, config, logs
from pdf_processor.commands import dead, demo, doctor, process, status, submit
from pdf_processor.config import ConfigurationError, Settings
from pdf_processor.embedded.valkey import ValkeyNotStarted
from pdf_processor.errors import InvalidTask, ProcessorError
from pdf_processor.queue.connection import QueueUnavailable, ServerTooOld
from pdf_processor.rpc.server import CannotListen
from pdf_processor.task import OcrMode, TaskOptions

WRONG_USAGE = 2
EXPECTED = (ProcessorError, QueueUnavailable, ServerTooOld, CannotListen, ValkeyNotStarted)

cli = typer.Typer(
    help="PDFs from a Redis list to embedded chunks at a Go backend, over gRPC.",
    epilog="Settings come from the environment or .env; .env.example explains each.",
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
dead_cli = typer.Typer(help="The tasks that failed for good, newest first.", no_args_is_help=True)
cli.add_typer(dead_cli, name="dead")

Sources = Annotated[list[str], typer.Argument(help="Files of this machine, or URLs.")]
TaskId = Annotated[str, typer.Argument(help="The task's id.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")]


def run() -> None:
    """Run the command that was typed, and exit."""
    try:
        cli()
    except ConfigurationError as error:
        _fail(str(error), WRONG_USAGE)
    except EXPECTED as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, asyncio.CancelledError):
        _fail("stopped", 1)
    except BrokenPipeError:
        sys.exit(1)


def _fail(message: str, code: int) -> None:
    for line in message.splitlines():
        sys.stderr.write(f"error: {line}\n")
    sys.exit(code)


def _finish(command: Coroutine[Any, Any, bool]) -> None:
    if not asyncio.run(command):
        raise typer.Exit(1)


def _settings(**overrides: object) -> Settings:
    settings = config.load(**overrides)
    logs.configure(level=settings.log_level, log_format=settings.log_format)
    return settings


def _quiet_settings(**overrides: object) -> Settings:
    """For commands that print for people: only what is wrong is logged."""
    settings = config.load(**overrides)
    logs.configure(level="WARNING", log_format=settings.log_format)
    return settings


@cli.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """PDFs from a Redis list to embedded chunks at a Go backend, over gRPC.

    Without a command: serve.
    """
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        serve()


@cli.command()
def serve(
    only: Annotated[
        list[app.Part] | None,
        typer.Option(help="Start this part alone; repeatable. Needs KEY_ENCRYPTION_SECRET."),
    ] = None,
) -> None:
    """Run the daemon (the default command)."""
    asyncio.run(app.serve(_settings(), frozenset(only or ())))


@cli.command("demo")
def demo_(
    pdfs: Annotated[list[Path] | None, typer.Argument(help="PDFs; default: the sample.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write every chunk with its vector: JSON Lines.")
    ] = None,
    provider: Annotated[
        demo.Provider,
        typer.Option(help="hashing (no model, nothing to download), local (a real one), none."),
    ] = "hashing",
) -> None:
    """See the whole system work: nothing to install, start or configure.

    Starts an embedded Valkey, the daemon and a small ingest server, pushes a task for each
    PDF as Go would, hands the key over, and shows what arrives.
    """
    _finish(demo.run(pdfs or [], out=out, provider=provider))


@cli.command("process")
def process_(
    sources: Sources,
    out: Annotated[str, typer.Option(help="File to write; - for standard output.")] = "-",
    provider: Annotated[
        str, typer.Option(help="Who embeds: none, local, openai, gemini, ...")
    ] = "none",
    output_format: Annotated[
        process.Format,
        typer.Option("--format", help="Chunks, sections before chunking, or Markdown."),
    ] = process.Format.JSONL,
    max_tokens: Annotated[int, typer.Option(help="Most tokens in a chunk.")] = 512,
    overlap_tokens: Annotated[
        int, typer.Option(help="Tokens repeated from the chunk before.")
    ] = 64,
    ocr: Annotated[OcrMode, typer.Option(help="Recognise text on scanned pages.")] = "auto",
    password: Annotated[str, typer.Option(help="Of an encrypted PDF.")] = "",
) -> None:
    """Files or URLs straight to chunks: no Redis, no Go."""
    settings = _quiet_settings()
    try:
        options = TaskOptions.of(
            max_tokens=max_tokens, overlap_tokens=overlap_tokens, ocr=ocr, password=password
        )
    except InvalidTask as error:
        raise ConfigurationError(error.message) from None
    _finish(
        process.run(
            settings,
            sources,
            out=out,
            provider=provider,
            output_format=output_format,
            options=options,
        )
    )


@cli.command("submit")
def submit_(
    sources: Sources,
    watch: Annotated[bool, typer.Option("--watch", help="Follow them to the end.")] = False,
) -> None:
    """Push tasks as Go would; a local file is put into the bucket first. Prints their ids."""
    _finish(submit.run(_quiet_settings(), sources, watch=watch))


@cli.command("status")
def status_(
    task_id: Annotated[str, typer.Argument(help="A task; without: the queue.")] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Follow it.")] = False,
    as_json: Json = False,
) -> None:
    """One task, or the queue: waiting, in flight, delayed, dead, workers alive."""
    _finish(status.run(_quiet_settings(), task_id, watch=watch, as_json=as_json))


@cli.command("doctor")
def doctor_() -> None:
    """Try everything the daemon needs; for what fails, say the mend."""
    _finish(doctor.run(_quiet_settings()))


@dead_cli.command("list")
def dead_list(as_json: Json = False) -> None:
    """Show the dead tasks, and payloads that were no task."""
    _finish(dead.show_all(_quiet_settings(), as_json=as_json))


@dead_cli.command("show")
def dead_show(task_id: TaskId) -> None:
    """Show one dead task whole; presigned queries and passwords are masked."""
    _finish(dead.show(_quiet_settings(), task_id))


@dead_cli.command("retry")
def dead_retry(task_id: TaskId) -> None:
    """Send a dead task back to the queue, with all its attempts."""
    _finish(dead.retry(_quiet_settings(), task_id))


@dead_cli.command("drop")
def dead_drop(task_id: TaskId) -> None:
    """Forget a dead task."""
    _finish(dead.drop(_quiet_settings(), task_id))
