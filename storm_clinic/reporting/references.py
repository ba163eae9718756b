"""Sources of what is on the page, and of nothing else."""

from __future__ import annotations

from storm_clinic.reporting.content import ReportContent
from storm_clinic.validation.analyses import Analyses

_HARRELL = "Harrell FE, Lee KL, Mark DB. Multivariable prognostic models. Stat Med 1996;15:361-387."
_FINE_GRAY = (
    "Fine JP, Gray RJ. A proportional hazards model for the subdistribution of a competing risk. "
    "J Am Stat Assoc 1999;94:496-509."
)
_ICI = (
    "Austin PC, Harrell FE, van Klaveren D. Graphical calibration curves and the integrated "
    "calibration index (ICI) for survival models. Stat Med 2020;39:2714-2742."
)
_NET_BENEFIT = (
    "Vickers AJ, Elkin EB. Decision curve analysis: a novel method for evaluating prediction "
    "models. Med Decis Making 2006;26:565-574."
)
_METRICS = {
    "c_index": _HARRELL,
    "c_index_uno": (
        "Uno H, et al. On the C-statistics for evaluating overall adequacy of risk prediction "
        "procedures with censored survival data. Stat Med 2011;30:1105-1117."
    ),
    "auc": (
        "Blanche P, Dartigues JF, Jacqmin-Gadda H. Estimating and comparing time-dependent areas "
        "under ROC curves for censored event times with competing risks. "
        "Stat Med 2013;32:5381-5397."
    ),
    "brier": (
        "Graf E, et al. Assessment and comparison of prognostic classification schemes for "
        "survival data. Stat Med 1999;18:2529-2545."
    ),
    "brier_scaled": (
        "Kattan MW, Gerds TA. The index of prediction accuracy. Diagn Progn Res 2018;2:7."
    ),
    "calibration_slope": (
        "Van Calster B, et al. Calibration: the Achilles heel of predictive analytics. "
        "BMC Med 2019;17:230."
    ),
    "ici": _ICI,
    "e50": _ICI,
    "e90": _ICI,
    "net_benefit": _NET_BENEFIT,
    "net_benefit_gain": _NET_BENEFIT,
}
_COMPETING = (
    "Wolbers M, et al. Concordance for prognostic models with competing risks. "
    "Biostatistics 2014;15:526-539.",
    _FINE_GRAY,
)
_DEVELOPMENT_SIZE = (
    "Riley RD, et al. Calculating the sample size required for developing a clinical prediction "
    "model. BMJ 2020;368:m441."
)
_VALIDATION_SIZE = (
    "Riley RD, et al. Evaluation of clinical prediction models (part 3): calculating the sample "
    "size required for an external validation study. BMJ 2024;384:e074821."
)
_CASE_MIX = (
    "Debray TPA, et al. A new framework to enhance the interpretation of external validation "
    "studies of clinical prediction models. J Clin Epidemiol 2015;68:279-289."
)
_ENERGY = (
    "Székely GJ, Rizzo ML. Energy statistics: a class of statistics based on distances. "
    "J Stat Plan Inference 2013;143:1249-1272."
)
_PRINCIPAL = (
    "Tipping ME, Bishop CM. Probabilistic principal component analysis. J R Stat Soc B "
    "1999;61:611-622."
)
_MEANS = (
    "Royston P, Parmar MKB. Restricted mean survival time: an alternative to the hazard ratio for "
    "the design and analysis of randomized trials with a time-to-event outcome. BMC Med Res "
    "Methodol 2013;13:152."
)
_LANDMARKS = (
    "van Houwelingen HC. Dynamic prediction by landmarking in event history analysis. "
    "Scand J Stat 2007;34:70-85."
)
_GRAY = (
    "Gray RJ. A class of K-sample tests for comparing the cumulative incidence of a competing "
    "risk. Ann Stat 1988;16:1141-1154."
)
_COX = "Cox DR. Regression models and life-tables. J R Stat Soc B 1972;34:187-220."
_RUBIN = "Rubin DB. Multiple Imputation for Nonresponse in Surveys. Wiley, 1987."
_SCHOENFELD = (
    "Grambsch PM, Therneau TM. Proportional hazards tests and diagnostics based on weighted "
    "residuals. Biometrika 1994;81:515-526."
)
_SPLINES = (
    "Durrleman S, Simon R. Flexible regression models with cubic splines. Stat Med 1989;8:551-561."
)
_HOLM = (
    "Holm S. A simple sequentially rejective multiple test procedure. Scand J Stat 1979;6:65-70."
)
_SITES = (
    "IntHout J, et al. Plea for routinely presenting prediction intervals in meta-analysis. "
    "BMJ Open 2016;6:e010247."
)
_PROBE = (
    "Howard FM, et al. The impact of site-specific digital histology signatures on deep learning "
    "model accuracy and bias. Nat Commun 2021;12:4423."
)
_REPORTING = (
    "Collins GS, et al. TRIPOD+AI statement: updated guidance for reporting clinical prediction "
    "models that use regression or machine learning methods. BMJ 2024;385:e078378.",
    "Moons KGM, et al. PROBAST+AI: an updated quality, risk of bias, and applicability assessment "
    "tool for prediction models using regression or artificial intelligence methods. "
    "BMJ 2025;388:e082505.",
)


def references(content: ReportContent) -> list[str]:
    """Sources of the measures and analyses on the page, and of the way of reporting."""
    used = {estimate.metric for item in content.evidence for estimate in item.estimates}
    cited = [text for metric, text in _METRICS.items() if metric in used]
    competing = any(o.kind == "competing risks" for i in content.evidence for o in i.outcomes)
    cited += _COMPETING if competing else ()
    for item in content.evidence:
        cited += _of(item.analyses)
    return list(dict.fromkeys([*cited, *_REPORTING]))


def _of(found: Analyses) -> list[str]:
    stages = {item.stage for item in found.adequacy}
    kinds = {item.kind for item in found.regressions if item.terms}
    compared = [item for item in found.groups if item.groups]
    tests = [test for item in compared for test in item.tests]
    pairs = (
        (_DEVELOPMENT_SIZE, "development" in stages),
        (_VALIDATION_SIZE, "validation" in stages),
        (_CASE_MIX, bool(found.case_mix)),
        (_ENERGY, any(item.comparisons for item in found.drift)),
        (_PRINCIPAL, any(item.comparisons for item in found.drift)),
        (_NET_BENEFIT, bool(found.decision)),
        (_MEANS, any(g.restricted_mean for item in compared for g in item.groups)),
        (_GRAY, any("gray" in test.name.lower() for test in tests)),
        (_LANDMARKS, any(item.landmarks for item in compared)),
        (_COX, "cox" in kinds),
        (_FINE_GRAY, "fine-gray" in kinds),
        (_RUBIN, any(r.missing == "multiple imputation" for r in found.regressions)),
        (_SCHOENFELD, bool(found.time_effects)),
        (_SPLINES, bool(found.shapes)),
        (_HOLM, _adjusted(found)),
        (_SITES, bool(found.sites)),
        (_PROBE, bool(found.probes)),
        (_HARRELL, any(item.optimism is not None for item in found.internal)),
    )
    return [text for text, used in pairs if used]


def _adjusted(found: Analyses) -> bool:
    tests = [item.heterogeneity for item in found.subgroups]
    tests += [variable.test for variable in found.missingness]
    tests += [test for group in found.groups for test in group.tests]
    tests += [test for regression in found.regressions for test in regression.tests]
    tests += [effect.test for effect in found.time_effects]
    tests += [shape.nonlinear for shape in found.shapes]
    drift = [group.p_adjusted for item in found.drift for group in item.comparisons]
    return any(p is not None for p in drift) or any(
        test is not None and test.p_adjusted is not None for test in tests
    )
