"""``storm-clinic registry``: what is registered, what happened to it, whether it still holds."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
import typer

from storm_clinic.cli.arguments import HERE, JsonOption, WorkspaceOption, workspace_at
from storm_clinic.cli.console import EXIT_ERROR, fail, print_json, print_table, say

if TYPE_CHECKING:
    from storm_clinic.registry.audit import Audit
    from storm_clinic.registry.trail import Event
    from storm_clinic.registry.versions import RegisteredModel

group = typer.Typer(help="Registered models and their trail.", no_args_is_help=True)

# What `show` prints of an event besides who and when; digests are cut, --json has them whole.
_TOLD = ("cohort", "plan", "reason", "rerun")
_LONGEST_DIGEST = 12


@group.command("list")
def list_(workspace: WorkspaceOption = HERE, json: JsonOption = False) -> None:
    """Every model version, its state, and who made the last move.

    Example: storm-clinic registry list
    """
    from storm_clinic.registry.moves import Registry

    versions = Registry(workspace_at(workspace)).versions()
    rows = [
        {
            "model": version.model,
            "version": version.version,
            "state": version.state,
            "by": version.by,
            "when": f"{version.when:%Y-%m-%d %H:%M} UTC",
        }
        for version in versions
    ]
    if json:
        print_json(rows)
    else:
        print_table(pd.DataFrame(rows, columns=["model", "version", "state", "by", "when"]))


@group.command()
def show(
    model: Annotated[str, typer.Argument(help="name, name:version or name@state.")],
    workspace: WorkspaceOption = HERE,
    json: JsonOption = False,
) -> None:
    """One version: what happened to it, what it claims, what was decided, and its card.

    Example: storm-clinic registry show kirc-pfi:1
    """
    from storm_clinic.registry.moves import Registry

    version = Registry(workspace_at(workspace)).find(model)
    card = (version.bundle.folder / "card.md").read_text(encoding="utf-8")
    claims = [
        claim.model_dump(mode="json", exclude_none=True) for claim in version.bundle.study.claims
    ]
    if json:
        print_json(
            {
                "model": version.reference,
                "state": version.state,
                "bundle_digest": version.bundle.digest,
                "claims": claims,
                "events": [_as_json(event) for event in version.events],
                "card": card,
            }
        )
        return
    _show(version, claims, card)


@group.command()
def audit(
    head: Annotated[
        str | None, typer.Option(help="A head that you kept: is it still in the chain?")
    ] = None,
    allowed_signers: Annotated[
        Path | None,
        typer.Option(help="Who has which ssh key; default: mlruns/allowed_signers."),
    ] = None,
    workspace: WorkspaceOption = HERE,
    json: JsonOption = False,
) -> None:
    """Hold every file, metric, tag and alias against the trail; exit with 1 where one differs.

    Example: storm-clinic registry audit --head 41:5f0c6a9d2b71
    """
    from storm_clinic.steps.registry_audit import audit as run_audit

    found = run_audit(workspace=workspace_at(workspace), head=head, allowed_signers=allowed_signers)
    if json:
        print_json(found.to_json())
    else:
        _show_audit(found)
    if not found.is_clean:
        raise typer.Exit(EXIT_ERROR)


@group.command()
def repair(workspace: WorkspaceOption = HERE, json: JsonOption = False) -> None:
    """Rewrite MLflow's tags and aliases from the trail; nothing else is touched.

    Example: storm-clinic registry repair
    """
    from storm_clinic.registry.moves import Registry
    from storm_clinic.registry.repair import repair as run_repair
    from storm_clinic.tracking import Tracker

    at = workspace_at(workspace)
    done = run_repair(Registry(at).trail, Tracker(at).database)
    if json:
        print_json({"changed": [asdict(item) for item in done.changed], "left": list(done.left)})
    else:
        for item in done.changed:
            was, now = item.found or "absent", item.expected or "absent"
            say(f"{item.place}: was {was}, is {now}")
        for sentence in done.left:
            say(sentence)
        say(f"{len(done.changed)} put right")
    if done.left:
        raise typer.Exit(EXIT_ERROR)


@group.command()
def head(workspace: WorkspaceOption = HERE, json: JsonOption = False) -> None:
    """Print the number and digest of the trail's last row, to be kept elsewhere.

    Example: storm-clinic registry head >> heads-of-our-trail.txt
    """
    from storm_clinic.registry.moves import Registry

    trail = Registry(workspace_at(workspace)).trail
    found = trail.head()
    if json:
        print_json({"head": None if found is None else str(found), "trail": trail.where})
    elif found is None:
        fail(f"{trail.where}: the trail holds no event yet")
    else:
        typer.echo(str(found))


@group.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="On 127.0.0.1.")] = 5000,
    workspace: WorkspaceOption = HERE,
) -> None:
    """Serve MLflow's own pages of this workspace to this machine until Ctrl-C.

    Example: storm-clinic registry ui --port 5001
    """
    from storm_clinic.registry.server import serve_ui

    with suppress(KeyboardInterrupt), serve_ui(workspace_at(workspace), port) as pages:
        say(f"{pages.url} (Ctrl-C ends it)")
        pages.wait()


def _show(version: RegisteredModel, claims: list[dict[str, Any]], card: str) -> None:
    say(f"{version.reference} is {version.state}; its bundle is {version.bundle.digest}")
    rows = [
        {
            "row": event.seq,
            "event": event.kind,
            "by": event.by,
            "when": f"{event.when:%Y-%m-%d %H:%M:%S} UTC",
            "signed": "yes" if event.signature else "no",
            "what": "; ".join(_told(event)),
        }
        for event in version.events
    ]
    print_table(pd.DataFrame(rows), title="Events (registry audit verifies signatures)")
    if claims:
        told = [", ".join(f"{name} {value}" for name, value in claim.items()) for claim in claims]
        print_table(pd.DataFrame({"claim": told}), title="Claims, as frozen in the bundle")
    decided = next((e for e in reversed(version.events) if "decision" in e.body), None)
    if decided is None:
        say("No decision is on record.")
    else:
        say(f"Decision of row {decided.seq}, by {decided.by}:")
        print_json(decided.body["decision"])
    typer.echo(f"\n{card}")


def _told(event: Event) -> list[str]:
    told = [f"{name} {event.body[name]}" for name in _TOLD if event.body.get(name) is not None]
    digests = {name: value for name, value in event.body.items() if name.endswith("_digest")}
    return told + [f"{name} {str(value)[:_LONGEST_DIGEST]}" for name, value in digests.items()]


def _as_json(event: Event) -> dict[str, Any]:
    return {"seq": event.seq, "previous": event.previous, "digest": event.digest, **event.body}


def _show_audit(found: Audit) -> None:
    for item in found.findings:
        say(f"{item.kind}: {_visible(str(item))}")
        if item.expected or item.found:
            say(f"    expected: {_visible(item.expected) or 'nothing'}")
            say(f"    found:    {_visible(item.found) or 'nothing'}")
    counts = ", ".join(f"{number} {name}" for name, number in asdict(found.verified).items())
    say(f"Verified: {counts}")
    for note in found.notes:
        say(f"Note: {note}")
    if found.verified.unsigned:
        say(f"Note: who made {found.verified.unsigned} unsigned events is a statement, no proof")
    say("Clean." if found.is_clean else f"{len(found.findings)} findings.")
    if found.head is not None:
        say(f"Head, to be kept elsewhere: {found.head}")


def _visible(text: str) -> str:
    """Text from a trail that anybody may have written: nothing in it steers the terminal."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
