"""The model card: what a manifest says, for people."""

from __future__ import annotations

from storm_clinic.bundle.manifest import Manifest
from storm_clinic.licence_terms import NOT_STATED, terms_of
from storm_clinic.licences import USES, conflicts
from storm_clinic.study import IMPUTED, Study

_READINGS = (
    "These are readings of published terms, no legal advice. Each licence covers this model too as "
    "far as its text reaches to what is derived."
)


def write_card(manifest: Manifest, study: Study, models: tuple[str, ...], performance: str) -> str:
    """The card as Markdown; the same manifest gives the same text.

    Parameters
    ----------
    manifest : Manifest
        All facts come from here.
    study : Study
        As the manifest holds it.
    models : tuple of str
        Models in the bundle.
    performance : str
        Markdown with the numbers and where they come from; empty if there are none.
    """
    parts = {
        f"# {study.study}": _warning(manifest) + study.question,
        "## Intended use": _use(study),
        "## Licences": _licences(manifest, study),
        "## What it predicts": _outcome(manifest),
        "## What it needs": _inputs(manifest),
        "## Models inside": _models(study, models),
        "## Development data": _data(manifest),
        "## Performance": performance or "No numbers were given when this card was written.",
        "## Claims to be shown on validation cohorts": _claims(study),
        "## Limits": _limits(manifest, study),
        "## Provenance": _provenance(manifest, study),
    }
    return "\n\n".join(f"{title}\n\n{text}" for title, text in parts.items()) + "\n"


def _warning(manifest: Manifest) -> str:
    simulated = [
        name for name, cohort in manifest.training.items() if cohort.origin.get("simulated")
    ]
    if not simulated:
        return ""
    return f"**Trained on simulated patients ({', '.join(simulated)}): of no clinical use.**\n\n"


def _use(study: Study) -> str:
    return (
        f"Declared as {USES[study.intended_use]}. For the question above, in patients like those "
        "it was developed in. Not a medical device; by itself not for decisions about a patient's "
        "care."
    )


def _licences(manifest: Manifest, study: Study) -> str:
    """What each licence allows, and where the intended use meets one."""
    lines = []
    for what, licence in manifest.licences():
        terms = terms_of(licence)
        if terms.is_known:
            name = "" if terms.identifier == licence else f" ({terms.identifier})"
            read = f"{name}. {_capital(terms.in_words())}. Read from: {terms.source}."
        else:
            read = "; what it allows is not on record here: ask."
        lines.append(f"- {_capital(what)}: {licence or NOT_STATED}{read}")
    found = conflicts(study.intended_use, manifest.licences())
    verdicts = {"refuse": "**Forbidden**", "say": "To be asked"}
    lines += ["", *(f"- {verdicts[c.severity]}: {c}." for c in found)] if found else []
    none = "Nothing stands against the intended use as declared."
    return "\n".join([*lines, *([] if found else ["", none]), "", _READINGS])


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _outcome(manifest: Manifest) -> str:
    outcome = manifest.outcome
    text = f"`{outcome.name}` ({outcome.kind.replace('_', ' ')}). {outcome.definition}".strip()
    if outcome.kind == "classes":
        return f"{text}\nProbability of each of: {', '.join(outcome.levels)}."
    months = ", ".join(f"{month:g}" for month in outcome.horizons_months)
    return f"{text}\nA relative risk, and the probability of the event by {months} months."


def _inputs(manifest: Manifest) -> str:
    lines = []
    for column in manifest.clinical:
        detail = column.unit or ", ".join(column.levels)
        lines.append(f"- `{column.name}`, {column.kind}: {detail}. May be missing.")
    for table in manifest.measurements:
        origin = ", imputed from H&E, not measured" if table.name == IMPUTED else ""
        lines.append(
            f"- `{table.name}`, {len(table.columns)} columns: {table.unit}{origin}. May be missing."
        )
    if manifest.features is not None:
        contract = manifest.features
        scale = "unknown scale"
        if contract.get("mpp") is not None:
            scale = f"{contract['tile_px']} px tiles at {contract['mpp']} µm/px"
        lines.append(
            f"- Tile embeddings of `{contract.get('encoder')}` ({contract.get('width')} numbers, "
            f"{scale}, {contract.get('provenance')}), from any number of slides of a patient."
        )
    if manifest.storm is not None:
        lines.append(
            f"- What the STORM checkpoint `{manifest.storm.get('encoder')}` made of slides' tiles, "
            "from any number of slides of a patient."
        )
    return "\n".join(lines) or "Nothing."


def _models(study: Study, models: tuple[str, ...]) -> str:
    lines = ["| model | head | inputs | role |", "| --- | --- | --- | --- |"]
    for spec in (spec for spec in study.models if spec.name in models):
        role = "candidate" if spec.name == study.candidate else "comparator"
        lines.append(f"| {spec.name} | {spec.head} | {', '.join(spec.inputs)} | {role} |")
    return "\n".join(lines)


def _data(manifest: Manifest) -> str:
    lines = ["| cohort | patients | events | source |", "| --- | --- | --- | --- |"]
    for name, cohort in manifest.training.items():
        source = cohort.origin.get("source") or "not stated"
        lines.append(f"| {name} | {cohort.n_patients} | {cohort.n_events} | {source} |")
    return "\n".join(lines)


def _claims(study: Study) -> str:
    lines = []
    for claim in study.claims:
        bound = claim.model_dump(exclude_none=True, exclude={"metric", "over"})
        text = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in bound.items())
        over = f" over {claim.over}" if claim.over else ""
        lines.append(f"- {claim.metric}{over}: {text}")
    return "\n".join(lines) or "None: nothing is claimed for this model."


def _limits(manifest: Manifest, study: Study) -> str:
    cohorts = ", ".join(manifest.training)
    lines = [
        f"- Developed in {cohorts} only. Other hospitals, scanners, stains or stages may differ.",
        f"- To be validated in: {', '.join(study.validation) or 'no cohort was named'}.",
        "- Missing covariates are filled from the others; a risk does not show how unsure that is.",
    ]
    if manifest.features is not None and manifest.features.get("provenance") == "declared":
        lines.append("- The embeddings were imported; how they were made is declared, not checked.")
    return "\n".join(lines)


def _provenance(manifest: Manifest, study: Study) -> str:
    code = manifest.code
    dirty = ", with uncommitted changes" if code.get("dirty") else ""
    packages = ", ".join(f"{name} {version}" for name, version in manifest.packages.items())
    seeds = ", ".join(f"{name} {seed}" for name, seed in manifest.seeds.items())
    return "\n".join(
        [
            f"- Study digest: `{study.digest}`",
            f"- Code: storm-clinic {code.get('version')}, digest `{code.get('digest')}`, "
            f"commit {code.get('commit') or 'unknown'}{dirty}",
            f"- Packages: {packages}",
            f"- Seeds: {seeds}",
            f"- MLflow run: {manifest.run_id or 'none'}",
        ]
    )
