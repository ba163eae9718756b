"""How the further analyses were made, as a paragraph of the methods."""

from __future__ import annotations

from storm_clinic.reporting.content import ReportContent
from storm_clinic.reporting.notation import listed, readable
from storm_clinic.validation.analyses import Analyses

_KINDS = {"cox": "Cox", "fine-gray": "Fine-Gray", "logistic": "logistic"}


def analysis_methods(content: ReportContent) -> list[str]:
    """One paragraph that names what was done beyond the measures; none where nothing was."""
    found = Analyses()
    for item in content.evidence:
        found += _made(item.analyses)
    said = [text for text in (*_patients(found), *_models(found), *_groups(found)) if text]
    if not said:
        return []
    return [f"{' '.join(said)} How each was made stands beneath it."]


def _made(found: Analyses) -> Analyses:
    """Without those that were asked for and could not be made."""
    return found.model_copy(
        update={
            "decision": tuple(item for item in found.decision if item.thresholds),
            "groups": tuple(item for item in found.groups if item.groups),
            "regressions": tuple(item for item in found.regressions if item.terms),
            "time_effects": tuple(item for item in found.time_effects if item.months),
            "shapes": tuple(item for item in found.shapes if item.at),
            "subgroups": tuple(item for item in found.subgroups if item.strata),
            "sites": tuple(item for item in found.sites if item.pooled.value is not None),
            "probes": tuple(item for item in found.probes if item.auroc.value is not None),
            "drift": tuple(item for item in found.drift if item.comparisons),
            "domain": tuple(item for item in found.domain if item.n_judged),
            "internal": tuple(
                item for item in found.internal if item.learning or item.apparent is not None
            ),
        }
    )


def _patients(found: Analyses) -> tuple[str, ...]:
    stages = list(dict.fromkeys(item.stage for item in found.adequacy))
    return (
        f"Sample size was judged for {listed(stages)} by the precision that the patients at hand "
        "can give."
        if stages
        else "",
        "Missing values are counted by variable and by outcome." if found.missingness else "",
        "Cohorts are compared by standardised differences of their variables."
        if found.case_mix
        else "",
        "Features are compared with development's by energy distance, and by how many patients lie "
        "beyond what development has shown."
        if found.drift
        else "",
        "At extraction each slide was held against the training data of the STORM checkpoint."
        if found.domain
        else "",
    )


def _models(found: Analyses) -> tuple[str, ...]:
    kinds = list(dict.fromkeys(_KINDS[item.kind] for item in found.regressions))
    imputed = [item for item in found.regressions if item.missing == "multiple imputation"]
    times = {item.n_imputations for item in imputed if item.n_imputations}
    how = (
        f" Missing values were imputed {max(times)} times and pooled by Rubin's rules."
        if times
        else ""
    )
    beside = (
        " Complete cases stand beside." if imputed and len(found.regressions) > len(imputed) else ""
    )
    return (
        f"{listed(kinds)} regressions were fitted to the evaluated patients for inference and "
        f"predict nobody.{how}{beside}"
        if kinds
        else "",
        "Proportional hazards were tested with scaled Schoenfeld residuals."
        if found.time_effects
        else "",
        "Shapes of effects are restricted cubic splines held against lines."
        if found.shapes
        else "",
    )


def _groups(found: Analyses) -> tuple[str, ...]:
    variables = list(dict.fromkeys(readable(item.variable) for item in found.subgroups))
    return (
        "Decision curves weigh true against false positives at every threshold of risk."
        if found.decision
        else "",
        "Risk groups are compared by restricted means and tests." if found.groups else "",
        f"Subgroups are those of {listed(variables)}." if variables else "",
        "Numbers of sites are pooled by meta-analysis." if found.sites else "",
        "A site probe asks how well the hospital can be told from what the model sees."
        if found.probes
        else "",
        "Internal validity rests on resampling, permuted outcomes and growing training sets, as "
        "far as shown."
        if found.internal
        else "",
    )
