"""`gpu-mesh alerts`: what stands, what was, silences, and a test of the channels."""

from __future__ import annotations

import time
from uuid import uuid4

import click

from gpu_mesh.cli import EXIT_FAILED
from gpu_mesh.cli.output import ago, console, json_option, print_json, table
from gpu_mesh.domain.alerts import Level, Notice, Silence
from gpu_mesh.domain.channels import body, title
from gpu_mesh.services import alerts as service
from gpu_mesh.services import channels
from gpu_mesh.services.alerts import Overview
from gpu_mesh.settings import settings

__all__ = ["alerts"]

_subject_option = click.option("--subject", default="*", show_default=True, help="Of what: gpu0@office, or '*@office'.")


@click.group(invoke_without_command=True)
@click.option("--all", "every", is_flag=True, help="Also what ended more than a day ago.")
@json_option
@click.pass_context
def alerts(context: click.Context, every: bool, as_json: bool) -> None:
    """Alerts that stand, and those that ended within a day.

    \b
    gpu-mesh alerts silence RULE [--subject S] [--until 18:00|2h] [--why …]   tell nobody of it
    gpu-mesh alerts silences                                                  which there are
    gpu-mesh alerts unsilence ID|RULE|all                                     tell again
    gpu-mesh alerts clear RULE SUBJECT                                        take one back by hand
    gpu-mesh alerts test                                                      send a test through every channel
    """
    if context.invoked_subcommand is not None:
        return
    seen = service.read(settings(), every=every)
    if as_json:
        print_json(seen.to_dict())
        return
    table(
        "",
        ("level", "rule", "subject", "since", "ended", "what", "what to do"),
        _lines(seen),
        empty="no alerts" if every else "no alerts within a day",
    )


def _lines(seen: Overview) -> list[tuple[object, ...]]:
    standing = [
        (
            f"{one.level.name}{' (silenced)' if seen.is_silenced(one) else ''}",
            *(one.rule, one.subject, seen.time(one.since), "stands", one.text, one.remedy),
        )
        for one in seen.standing
    ]
    past = [
        (one.level, one.rule, one.subject, seen.time(one.raised), seen.time(one.recovered), one.text, None)
        for one in seen.past
    ]
    return [*standing, *past]


@alerts.command()
@click.argument("rule")
@_subject_option
@click.option("--until", help="Its end: 18:00, 2026-11-30 09:00, or a span such as 90m, 2h, 1d. Without: none.")
@click.option("--why", default="", help="Shown in the list of silences.")
@click.option("--by", help="Who does it; default: you, on this machine.")
@json_option
def silence(rule: str, subject: str, until: str | None, why: str, by: str | None, as_json: bool) -> None:
    """Tell no channel of alerts of RULE (a name, or a pattern: '*'). The log has them all the same.

    What still stands at its end is told then.
    """
    made, seen = service.silence(settings(), rule, subject=subject, until=until, why=why, by=by)
    if as_json:
        print_json(made.to_dict())
        return
    stands = sum(made.holds(one.rule, one.subject, seen.now) for one in seen.standing)
    click.echo(f"silence {made.id}: {made.rule} of {made.subject}, {_end(made, seen)}; {stands} such alerts stand now")


@alerts.command()
@json_option
def silences(as_json: bool) -> None:
    """Silences that hold."""
    seen = service.read(settings())
    if as_json:
        print_json([one.to_dict() for one in seen.silences])
        return
    table(
        "",
        ("id", "rule", "subject", "since", "until", "by", "why"),
        (
            (one.id, one.rule, one.subject, seen.time(one.since), seen.time(one.until) if one.until else None,
             one.by, one.why)
            for one in seen.silences
        ),
        empty="no silences",
    )  # fmt: skip


@alerts.command()
@click.argument("which", nargs=-1, required=True)
@json_option
def unsilence(which: tuple[str, ...], as_json: bool) -> None:
    """Take silences back, by id or by rule, or `all`."""
    ended = service.unsilence(settings(), which)
    if as_json:
        print_json([one.to_dict() for one in ended])
        return
    for one in ended:
        click.echo(f"silence {one.id} ended: {one.rule} of {one.subject}")
    if not ended:
        click.echo("no silences")


@alerts.command()
@click.argument("rule")
@click.argument("subject")
def clear(rule: str, subject: str) -> None:
    """Take an alert back by hand, of which nobody will say any more that it is over."""
    if not service.drop(settings(), rule, subject):
        click.echo(f"no alert of {rule} stands for {subject}", err=True)
        raise click.exceptions.Exit(EXIT_FAILED)
    click.echo(f"{rule} of {subject}: taken back")


@alerts.command("test")
@json_option
def test_(as_json: bool) -> None:
    """Send a test through every channel of this machine's settings now; exit code 1 when one failed.

    Levels and silences do not count. Needs no Redis.
    """
    current = settings()
    own, now = channels.check(current), time.time()
    notice = Notice(
        kind="test", rule="test", subject=current.node_name, level=Level.INFO, reach=int(Level.CRITICAL),
        text="this is a test: alerts arrive here", since=now, at=now, id=uuid4().hex,
    )  # fmt: skip
    text = body(
        notice, f"tested from {current.node_name}", lambda at: time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
    )
    began = time.monotonic()
    outcomes = channels.send({channel: [(notice, title(notice), text)] for channel in own}) if own else {}
    errors = {channel: outcomes[notice.id, channel.key] for channel in own}
    if as_json:
        print_json([{"channel": one.label, "level": one.level.name, "error": error} for one, error in errors.items()])
    elif not own:
        console.print("no channel but the log; name some in GPU_MESH_ALERT_URLS (docs/alerts.md)", soft_wrap=True)
    else:
        lines = ((one.label, one.level.name, error or "sent") for one, error in errors.items())
        table("", ("channel", "from level", f"within {ago(time.monotonic() - began)}"), lines, empty="")
    if any(errors.values()):
        raise click.exceptions.Exit(EXIT_FAILED)


def _end(made: Silence, seen: Overview) -> str:
    return f"until {seen.time(made.until)} ({seen.zone})" if made.until is not None else "until it is taken back"
