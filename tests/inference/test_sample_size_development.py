"""Sample sizes for development are those that the papers and their software print."""

from __future__ import annotations

import math

import pytest

from storm_clinic.errors import StatisticsError
from storm_clinic.inference.sample_size_development import (
    binary_development,
    classes_development,
    expected_shrinkage,
    greatest_r2,
    r2_from_c,
    survival_development,
)


# Riley et al. 2019 (24 parameters, 17.4%: 662 patients), the others from pmsampsize's own tests.
@pytest.mark.parametrize(
    ("r2", "parameters", "share", "sizes"),
    [
        (0.288, 24, 0.174, (623, 662, 221)),
        (0.55, 24, 0.174, (255, 532, 221)),
        (0.288, 36, 0.174, (934, 992, 221)),
        (0.288, 24, 0.25, (623, 590, 289)),
    ],
)
def test_a_logistic_model_needs_what_the_paper_prints(r2, parameters, share, sizes):
    found = binary_development(parameters, r2, share)
    assert tuple(c.n_patients for c in found.criteria) == sizes
    assert found.n_patients == max(sizes)
    assert found.n_events == pytest.approx(max(sizes) * share)


# Riley et al., BMJ 2020 (recurrent venous thromboembolism: 5143), the others as above. In years.
@pytest.mark.parametrize(
    ("r2", "parameters", "rate", "follow_up", "horizon", "shrinkage", "optimism"),
    [
        (0.051, 30, 0.065, 2.07, 2, 5143, 1039),
        (0.051, 25, 0.065, 2.07, 2, 4286, 866),
        (0.065, 25, 0.065, 2.07, 2, 3335, 859),
        (0.051, 50, 0.065, 2.07, 2, 8572, 1731),
        (0.051, 25, 0.1, 2.07, 2, 4286, 731),
        (0.051, 25, 0.065, 4, 2, 4286, 679),
        (0.06, 40, 0.08, 5, 3, 5798, 969),
        (0.03, 10, 0.09, 3, 3, 2950, 272),
        (0.3, 80, 0.03, 5, 1, 1974, 2272),
    ],
)
def test_a_cox_model_needs_what_the_paper_prints(
    r2, parameters, rate, follow_up, horizon, shrinkage, optimism
):
    found = survival_development(
        parameters, r2, rate=rate, mean_follow_up=follow_up, horizon=horizon
    )
    assert found.of("shrinkage") == shrinkage
    # They round the events of 10,000 patients up to a whole number first.
    assert found.of("optimism") == pytest.approx(optimism, abs=1)
    assert found.n_patients == max(found.of("shrinkage"), found.of("optimism"))
    assert found.n_events == pytest.approx(found.n_patients * rate * follow_up)


def test_the_unit_of_time_does_not_matter():
    years = survival_development(10, 0.1, rate=0.2, mean_follow_up=3, horizon=5)
    months = survival_development(10, 0.1, rate=0.2 / 12, mean_follow_up=36, horizon=60)
    assert years.criteria == months.criteria


@pytest.mark.parametrize(("rate", "horizon"), [(0.065, 2), (0.4, 5), (0.01, 1)])
def test_the_average_risk_is_reached_by_the_size_and_not_by_one_patient_fewer(rate, horizon):
    n = survival_development(2, 0.01, rate=rate, mean_follow_up=2.07, horizon=horizon).of(
        "overall risk"
    )

    def furthest(patients: int) -> float:
        reach = 1.96 * math.sqrt(rate / (patients * 2.07))
        risks = [1 - math.exp(-(rate + step) * horizon) for step in (-reach, 0, reach)]
        return max(risks[1] - risks[0], risks[2] - risks[1])

    assert furthest(n) <= 0.05
    assert furthest(n - 1) > 0.05


# Pate et al. 2023: ovarian masses in five classes. Their R² are simulated, ours integrated.
OVARY = (2557, 186, 176, 467, 120)
OVARY_C = (0.85, 0.92, 0.99, 0.95, 0.75, 0.95, 0.87, 0.87, 0.71, 0.82)
OVARY_R2 = (0.116, 0.179, 0.497, 0.168, 0.185, 0.499, 0.372, 0.329, 0.128, 0.210)
PAIRS = [(a, b) for a in range(5) for b in range(a + 1, 5)]


@pytest.mark.parametrize(("pair", "c", "r2"), list(zip(PAIRS, OVARY_C, OVARY_R2, strict=True)))
def test_r2_from_c_is_what_the_paper_simulates(pair, c, r2):
    a, b = (OVARY[k] for k in pair)
    assert r2_from_c(c, b / (a + b)) == pytest.approx(r2, abs=0.0016)
    # Which of the two is called the event is a matter of words.
    assert r2_from_c(c, b / (a + b)) == pytest.approx(r2_from_c(c, a / (a + b)), rel=1e-9)


def test_a_multinomial_model_needs_what_the_paper_prints():
    shares = [n / sum(OVARY) for n in OVARY]
    r2 = dict(zip(PAIRS, OVARY_R2, strict=True))
    found = classes_development(17, shares, r2, 0.15)
    assert found.of("shrinkage") == pytest.approx(13136, rel=0.005)  # their R² has 3 digits here
    assert found.of("optimism") == 1477
    assert found.of("overall risk") == 524


def test_three_classes_need_what_the_authors_software_prints():
    events = (50, 100, 150)
    pairs = [(0, 1), (0, 2), (1, 2)]
    r2 = {(a, b): 0.15 * greatest_r2(events[b] / (events[a] + events[b])) for a, b in pairs}
    found = classes_development(17, [n / 300 for n in events], r2, 0.15)
    assert found.of("shrinkage") == 2660
    assert found.of("optimism") == 714
    # Their criterion 3 always divides by five classes (664); three share the error here.
    assert found.of("overall risk") < 664


@pytest.mark.parametrize("parameters", [3, 24, 80])
def test_expected_shrinkage_undoes_the_first_criterion(parameters):
    n = binary_development(parameters, 0.288, 0.174).of("shrinkage")
    assert expected_shrinkage(n, parameters, 0.288) == pytest.approx(0.9, abs=0.003)
    assert expected_shrinkage(n, parameters, 0.288) >= 0.9
    assert expected_shrinkage(n // 3, parameters, 0.288) < 0.8


def test_hopelessly_few_patients_leave_nothing():
    assert expected_shrinkage(1, 500, 0.1) < 0.15


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: binary_development(10, 0.8, 0.1),  # more than the outcome allows
        lambda: binary_development(0, 0.1, 0.1),
        lambda: binary_development(10, 0.1, 1.0),
        lambda: survival_development(10, 0.1, rate=0, mean_follow_up=1, horizon=1),
        lambda: r2_from_c(0.5, 0.2),
        lambda: classes_development(5, [0.5, 0.4, 0.2], {(0, 1): 0.1}, 0.15),
        lambda: expected_shrinkage(0, 10, 0.1),
    ],
)
def test_what_cannot_be_is_refused_with_the_legal_range(wrong):
    with pytest.raises(StatisticsError):
        wrong()
