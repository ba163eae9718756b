"""``storm-clinic extract`` and ``storm-clinic features``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from storm_clinic.cli.arguments import HERE, JsonOption, WorkspaceOption, workspace_at
from storm_clinic.cli.console import bars, print_json, print_table, say
from storm_clinic.features.lost_tasks import TimeLimits

if TYPE_CHECKING:
    from storm_clinic.steps.storm_extraction import StormResult
    from storm_clinic.steps.storm_plan import StormChoice

group = typer.Typer(help="Feature files, one a slide.", no_args_is_help=True)

_LIMITS = TimeLimits()

CohortOption = Annotated[str, typer.Option("--cohort", help="The cohort's name.")]


def extract(
    cohort: CohortOption,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Slides or folders; without any, those of the cohort's slides table."),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="An encoder of the catalogue; by default efficientnet-lite0, or the checkpoint's."
        ),
    ] = None,
    storm: Annotated[
        str | None,
        typer.Option(help="A STORM checkpoint, by name or folder: lays its grid, adds its files."),
    ] = None,
    genes: Annotated[
        str | None,
        typer.Option(
            help="With --storm: a file of gene symbols, or SYMBOL,SYMBOL; by default all that "
            "have evidence."
        ),
    ] = None,
    min_r: Annotated[
        str,
        typer.Option(
            help="With --storm: what the lower bound of a gene's held-out correlation must "
            "exceed; 'none' asks for no evidence."
        ),
    ] = "0",
    per_tile: Annotated[
        bool,
        typer.Option("--per-tile", help="With --storm: store the expression of every tile."),
    ] = False,
    weights: Annotated[
        Path | None, typer.Option(help="File or folder with the encoder's weights.")
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="Microns per pixel of these slides, whatever they state.")
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Folder of tissue masks, <slide id>.png.")
    ] = None,
    overlap_px: Annotated[
        int | None, typer.Option(help="Overlap of neighbouring tiles, below 0 a gap.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    runtime: Annotated[
        str,
        typer.Option(help="What computes the network: torch, onnxruntime, openvino, auto."),
    ] = "torch",
    precision: Annotated[
        str | None,
        typer.Option(help="fp32 or bf16; by default fp32 on a CPU, the card's on a GPU."),
    ] = None,
    readers: Annotated[int | None, typer.Option(help="Reader processes.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Tiles a batch.")] = None,
    shard: Annotated[
        str | None, typer.Option(help="Only part i/n of the slides, for arrays of jobs.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Share the slides out on a Ray cluster: HOST:PORT, auto, or local."),
    ] = None,
    task_timeout: Annotated[
        float, typer.Option(help="Seconds after which a reader is taken to hang on one batch.")
    ] = _LIMITS.task_s,
    slide_timeout: Annotated[
        float, typer.Option(help="Seconds that reading one slide may take in all.")
    ] = _LIMITS.slide_s,
    actor_timeout: Annotated[
        float,
        typer.Option(help="With --ray: seconds that an actor may take for one slide, with all."),
    ] = _LIMITS.actor_s,
    workspace: WorkspaceOption = HERE,
    json: JsonOption = False,
) -> None:
    """Turn slides into feature files. Ends with code 3 if some slides failed.

    Example: storm-clinic extract slides/ --cohort demo_a --storm storm-tiny-her2st
    """
    from storm_clinic.features.shard import Shard
    from storm_clinic.steps.extraction import extract as run_extraction

    with bars() as progress:
        result = run_extraction(
            paths,
            cohort=cohort,
            encoder=encoder,
            storm=_storm_choice(storm, genes, min_r, per_tile),
            weights=weights,
            mpp=mpp,
            masks=masks,
            overlap_px=overlap_px,
            device=device,
            runtime=runtime,
            precision=precision,
            readers=readers,
            batch_size=batch_size,
            shard=None if shard is None else Shard.parse(shard),
            ray=ray,
            limits=TimeLimits(task_timeout, slide_timeout, actor_timeout),
            workspace=workspace_at(workspace),
            progress=progress,
        )
    counts = {status: result.count(status) for status in ("written", "unchanged", "failed")}
    if json:
        print_json(
            counts
            | {
                "tiles": result.n_tiles,
                "store": str(result.store.folder),
                "failures": result.failures.to_dict("records"),
                "left_out": dict(result.left_out),
                **({} if result.storm is None else {"storm": result.storm.record()}),
            }
        )
        raise typer.Exit(result.exit_code)
    say(", ".join(f"{n} slides {status}" for status, n in counts.items()))
    if result.n_tiles:
        say(f"{result.n_tiles:,} tiles, {result.n_tiles / result.seconds:.0f} a second")
    for slide_id, reason in result.left_out.items():
        say(f"left out: {slide_id}: {reason}")
    for suffix, n in result.ignored.items():
        say(f"{n} files {suffix} are no slides and were not looked at.")
    if len(result.failures):
        print_table(result.failures[["slide_id", "error", "reason"]], title="Failures")
        say(f"The same table: {result.failures_path}")
    for slide in result.incomplete:
        say(f"{slide.slide_id}: {slide.n_failed_tiles} tiles could not be read; they are listed")
    say(f"Feature files: {result.store.folder}")
    if result.storm is not None:
        _say_storm(result.storm)
    raise typer.Exit(result.exit_code)


def _storm_choice(
    storm: str | None, genes: str | None, min_r: str, per_tile: bool
) -> StormChoice | None:
    from storm_clinic.errors import InputError
    from storm_clinic.steps.storm_plan import StormChoice

    if storm is None:
        if genes is not None or per_tile or min_r != "0":
            raise InputError("--genes, --min-r and --per-tile go with --storm", where="extract")
        return None
    try:
        least = None if min_r.strip().lower() == "none" else float(min_r)
    except ValueError:
        raise InputError(f"must be a number or none, is {min_r!r}", where="--min-r") from None
    return StormChoice(storm, genes, least, per_tile)


def _say_storm(storm: StormResult) -> None:
    contract = storm.contract
    counts = (f"{storm.count(status)} {status}" for status in ("written", "unchanged", "failed"))
    say(f"STORM files of {contract.checkpoint}: {', '.join(counts)}")
    if contract.n_genes == 0:
        say("No gene is imputed: the checkpoint has evidence for none.")
    elif contract.min_r is None:
        say(f"{contract.n_genes} genes imputed, with or without evidence")
    else:
        say(
            f"{contract.n_genes} genes imputed: those whose held-out correlation is shown to "
            f"exceed {contract.min_r:g}"
        )
    for slide_id, warning in storm.warnings.items():
        say(f"out of domain: {slide_id}: {warning}")
    say(f"STORM files: {storm.folder}")


@group.command("list")
def list_(workspace: WorkspaceOption = HERE, json: JsonOption = False) -> None:
    """Every store: slides, tiles, encoder, geometry.

    Example: storm-clinic features list
    """
    from storm_clinic.steps.feature_store import list_features

    listing = list_features(workspace_at(workspace))
    if json:
        print_json(listing.table.to_dict("records"))
    else:
        print_table(listing.table)


@group.command("check")
def check(
    cohort: Annotated[str | None, typer.Option(help="Only this cohort.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Only this encoder.")] = None,
    workspace: WorkspaceOption = HERE,
    json: JsonOption = False,
) -> None:
    """Look for damage, NaN, constant embeddings, differing contracts, slides that are there twice.

    Example: storm-clinic features check --cohort demo_a
    """
    from storm_clinic.steps.feature_store import check_features

    with bars() as progress:
        result = check_features(
            workspace_at(workspace), cohort=cohort, encoder=encoder, progress=progress
        )
    if json:
        print_json(result.table.to_dict("records"))
    else:
        if len(result.table):
            print_table(result.table)
        say(f"{result.n_stores} stores, {result.n_slides} slides, {len(result.table)} findings")
    raise typer.Exit(result.exit_code)


@group.command("import")
def import_(
    paths: Annotated[list[Path], typer.Argument(help="HDF5 or .pt files, or folders of them.")],
    cohort: CohortOption,
    encoder: Annotated[str, typer.Option(help="Name of the encoder that made them.")],
    mpp: Annotated[float | None, typer.Option(help="Microns per pixel of the tiles.")] = None,
    tile_px: Annotated[int | None, typer.Option(help="Side of a tile in pixels.")] = None,
    geometry_unknown: Annotated[
        bool,
        typer.Option("--geometry-unknown", help="Nobody knows mpp and tile size."),
    ] = False,
    licence: Annotated[
        str | None,
        typer.Option(help="Of the encoder's weights, unless files or the catalogue state it."),
    ] = None,
    task_timeout: Annotated[
        float, typer.Option(help="Seconds after which a reader is taken to hang on one file.")
    ] = _LIMITS.task_s,
    workspace: WorkspaceOption = HERE,
    json: JsonOption = False,
) -> None:
    """Take in embeddings that others made (TRIDENT, CLAM, or a bare features dataset).

    Ends with code 3 if some files failed.

    Example: storm-clinic features import h5/ --cohort site_x --encoder uni --mpp 0.5 --tile-px 256
    """
    from storm_clinic.steps.feature_store import import_features

    with bars() as progress:
        result = import_features(
            paths,
            cohort=cohort,
            encoder=encoder,
            workspace=workspace_at(workspace),
            mpp=mpp,
            tile_px=tile_px,
            geometry_unknown=geometry_unknown,
            licence=licence,
            limits=TimeLimits(task_timeout),
            progress=progress,
        )
    counts = result.table["status"].value_counts().to_dict()
    if json:
        print_json({"counts": counts, "failures": result.failures.to_dict("records")})
    else:
        say(", ".join(f"{n} {status}" for status, n in counts.items()))
        if len(result.failures):
            print_table(result.failures)
        say(f"Feature files: {result.store.folder}")
    raise typer.Exit(result.exit_code)


@group.command("export")
def export_(
    cohort: CohortOption,
    encoder: Annotated[str, typer.Option(help="Names the store.")],
    to: Annotated[str, typer.Option(help="trident, clam, stamp or anndata.")],
    out: Annotated[Path, typer.Option(help="Folder; nothing in it is overwritten.")],
    obs: Annotated[str, typer.Option(help="Rows of an AnnData file: tiles or slides.")] = "tiles",
    workspace: WorkspaceOption = HERE,
    json: JsonOption = False,
) -> None:
    """Write a store in another program's layout. Ends with code 3 if some slides failed.

    Example: storm-clinic features export --cohort demo_a --encoder uni --to trident --out trident/
    """
    from storm_clinic.errors import InputError
    from storm_clinic.steps.feature_store import export_features

    for name, value, legal in (
        ("--to", to, ("trident", "clam", "stamp", "anndata")),
        ("--obs", obs, ("tiles", "slides")),
    ):
        if value not in legal:
            raise InputError(f"must be one of {', '.join(legal)}, is {value!r}", where=name)
    with bars() as progress:
        result = export_features(
            cohort=cohort,
            encoder=encoder,
            to=to,  # type: ignore[arg-type]
            out=out,
            obs=obs,  # type: ignore[arg-type]
            workspace=workspace_at(workspace),
            progress=progress,
        )
    counts = result.table["status"].value_counts().to_dict()
    if json:
        print_json({"counts": counts, "failures": result.failures.to_dict("records")})
    else:
        say(", ".join(f"{n} {status}" for status, n in counts.items()))
        if len(result.failures):
            print_table(result.failures[["slide_id", "reason"]])
        say(f"Written to {result.folder}")
    raise typer.Exit(result.exit_code)


@group.command("embed")
def embed(
    cohort: CohortOption,
    encoder: Annotated[str, typer.Option(help="Tile encoder whose features are there.")],
    slide_encoder: Annotated[str, typer.Option(help="A slide encoder of the catalogue.")],
    weights: Annotated[
        Path | None, typer.Option(help="File or folder with the slide encoder's weights.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    workspace: WorkspaceOption = HERE,
    json: JsonOption = False,
) -> None:
    """Turn tile features into one embedding a slide. Ends with code 3 if some slides failed.

    Example: storm-clinic features embed --cohort site_x --encoder conch-v1.5 --slide-encoder titan
    """
    from storm_clinic.steps.slide_embedding import embed_slides

    with bars() as progress:
        result = embed_slides(
            cohort,
            encoder=encoder,
            slide_encoder=slide_encoder,
            weights=weights,
            device=device,
            workspace=workspace_at(workspace),
            progress=progress,
        )
    counts = {status: result.count(status) for status in ("written", "unchanged", "failed")}
    if json:
        failures = result.failures.to_dict("records")
        print_json(counts | {"store": str(result.store.folder), "failures": failures})
    else:
        say(", ".join(f"{n} slides {status}" for status, n in counts.items()))
        if len(result.failures):
            print_table(result.failures[["slide_id", "error", "reason"]], title="Failures")
        say(f"Feature files: {result.store.folder}")
    raise typer.Exit(result.exit_code)
