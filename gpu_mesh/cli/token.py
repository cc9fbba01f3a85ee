"""`gpu-mesh token`: tokens of the REST API."""

from __future__ import annotations

import time

import click

from gpu_mesh.cli.output import json_option, print_json, table
from gpu_mesh.domain.tokens import Role
from gpu_mesh.services import tokens as service
from gpu_mesh.settings import settings

__all__ = ["token"]


@click.group()
def token() -> None:
    """Tokens of the REST API. As soon as one was made, every request needs one; without any, only this machine is let
    in.

    \b
    gpu-mesh token create NAME --role submit [--role read] [--expires 90d]   make one; it is shown once
    gpu-mesh token list                                                      which there are
    gpu-mesh token revoke NAME|ID                                            of no use within 2 s
    gpu-mesh token open                                                      need none again, when none is left
    """


@token.command()
@click.argument("name")
@click.option(
    "--role",
    "roles",
    multiple=True,
    required=True,
    type=click.Choice([str(role) for role in Role]),
    help="submit: send tasks, and follow and cancel those whose id one knows. read: see all. admin: everything. "
    "May be given several times.",
)
@click.option("--expires", help="How long it is of use: 12h, 90d. Without: until it is revoked.")
@json_option
def create(name: str, roles: tuple[str, ...], expires: str | None, as_json: bool) -> None:
    """Make a token for NAME and print it. Only its hash is kept: nobody can show it again."""
    made, shown = service.create(settings(), name, roles, expires)
    if as_json:
        told = {key: value for key, value in made.to_dict().items() if key != "digest"}
        print_json({**told, "token": shown})
        return
    end = f"until {_time(made.expires)}" if made.expires is not None else "until it is revoked"
    click.echo(f"token {made.name} ({made.id}): {', '.join(sorted(made.roles))}, {end}; shown this once:", err=True)
    click.echo(shown)


@token.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Tokens, without their secrets; when each was used last, to the minute."""
    found = service.listed(settings())
    if as_json:
        print_json([one.to_dict() for one in found])
        return
    table(
        "",
        ("id", "name", "roles", "created", "expires", "used"),
        (
            (
                one.token.id,
                one.token.name,
                ", ".join(sorted(one.token.roles)),
                _time(one.token.created),
                "is over" if one.is_over else _time(one.token.expires),
                _time(one.used),
            )
            for one in found
        ),
        empty="no tokens",
    )


@token.command()
@click.argument("which", metavar="NAME|ID")
@json_option
def revoke(which: str, as_json: bool) -> None:
    """Make a token useless, within 2 s at every API process."""
    gone, left = service.revoke(settings(), which)
    if as_json:
        print_json({"id": gone.id, "name": gone.name, "left": left})
        return
    click.echo(f"token {gone.name} ({gone.id}) is revoked")
    if not left:
        click.echo("none is left: the API lets nobody in until you make one, or `gpu-mesh token open`", err=True)


@token.command("open")
def open_() -> None:
    """Let everybody on this machine use the API without a token, as before the first one. Only where none is left; an
    API that is served to other machines goes on to need one."""
    service.open_again(settings())
    click.echo("no token is needed on this machine")


def _time(stamp: float | None) -> str | None:
    return None if stamp is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(stamp))
