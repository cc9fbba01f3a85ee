"""What a task says, printed as it says it."""

from __future__ import annotations

import json
from dataclasses import asdict

import click
from celery import states
from celery.exceptions import TaskRevokedError, TimeoutError
from celery.result import AsyncResult

from gpu_mesh.celery import app
from gpu_mesh.cli import EXIT_FAILED, EXIT_TIMEOUT
from gpu_mesh.cli.output import print_json
from gpu_mesh.errors import BrokerUnavailable
from gpu_mesh.services.following import Piece, follow
from gpu_mesh.settings import settings

__all__ = ["print_stream"]

#: Said on standard error, where the text on standard output begins anew.
BEGINS_ANEW = "-- its run was lost; the answer begins anew --"


def print_stream(result: AsyncResult, timeout: float | None, as_json: bool) -> None:
    """Print the text of a task as it comes, what a model thinks to standard error; of one that says nothing the result.

    With `as_json` each piece is a line, `{"text", "thinking", "restart"}`, and an error the last one.
    """
    said = False
    try:
        for piece in follow(app, settings(), result, timeout_s=timeout):
            _print(piece, said, as_json)
            said = True
    except BrokerUnavailable:
        raise
    except TimeoutError:
        _end_line(said, as_json)
        click.echo(f"{result.id}: still {result.state} after {timeout:g} s", err=True)
        raise click.exceptions.Exit(EXIT_TIMEOUT) from None
    except Exception as exc:
        _end_line(said, as_json)
        raise _failed(result, exc, as_json) from exc
    if not said:
        print_json(result.result)
    _end_line(said, as_json)


def _print(piece: Piece, said: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(piece)))
        return
    if piece.restart:
        _end_line(said, as_json)
        click.echo(BEGINS_ANEW, err=True)
    if piece.thinking:
        click.echo(piece.thinking, err=True, nl=False)
    click.echo(piece.text, nl=False)


def _end_line(said: bool, as_json: bool) -> None:
    if said and not as_json:
        click.echo()


def _failed(result: AsyncResult, exc: Exception, as_json: bool) -> click.exceptions.Exit:
    """Print what the task raised; how the command ends then."""
    state = states.REVOKED if isinstance(exc, TaskRevokedError) else states.FAILURE
    error = f"{type(exc).__name__}: {exc}"
    if as_json:
        click.echo(json.dumps({"task_id": result.id, "state": state, "error": error}))
    else:
        click.echo(f"{result.id}: {state}: {error}", err=True)
    return click.exceptions.Exit(EXIT_FAILED)
