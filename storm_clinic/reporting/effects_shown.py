"""Effects over time and shapes of effects: figures, tests and what they show."""

from __future__ import annotations

from collections.abc import Sequence

from storm_clinic.reporting.blocks import Block, Picture, Words, made
from storm_clinic.reporting.line_figures import shapes, time_effects
from storm_clinic.reporting.notation import listed, readable
from storm_clinic.reporting.numbers import decisive, shown_by, tests_table
from storm_clinic.reporting.parts import CohortPart
from storm_clinic.reporting.tables import Value
from storm_clinic.validation.analyses import HypothesisTest, Shape, TimeEffect


def time_effects_shown(part: CohortPart) -> list[Block]:
    """How hazard ratios move with time."""
    found: tuple[TimeEffect, ...] = part.analyses("time_effects")
    drawn = [effect for effect in found if effect.months]
    pairs = [(effect.term, effect.test) for effect in found]
    blocks: list[Block] = [
        Words(
            effects_sentence(
                pairs, "changes with time", "No change of an effect with time is shown"
            )
        )
    ]
    if drawn:
        title = f"Effects over time, {part.cohort}"
        caption = (
            "Log hazard ratio over time with 95% band (scaled Schoenfeld residuals, smoothed); "
            "dashed: the constant that proportional hazards assume; grey: no effect."
        )
        blocks.append(Picture(time_effects(drawn, slug=f"{part.slug}-plot", title=title), caption))
    # The test of a whole model stands with each of its terms.
    tests = list(dict.fromkeys(_named(effect.test, effect.term) for effect in found))
    blocks.append(tests_table(part.slug, f"Tests of proportional hazards, {part.cohort}", tests))
    return [*blocks, *made(*(effect.method for effect in found))]


def shapes_shown(part: CohortPart) -> list[Block]:
    """How the log hazard moves with each variable."""
    found: tuple[Shape, ...] = part.analyses("shapes")
    drawn = [shape for shape in found if shape.at]
    pairs = [(shape.variable, shape.nonlinear) for shape in found]
    blocks: list[Block] = [
        Words(effects_sentence(pairs, "departs from a line", "No departure from a line is shown"))
    ]
    if drawn:
        title = f"Shapes of effects, {part.cohort}"
        caption = (
            "Log hazard against the median of each variable with 95% band (restricted cubic "
            "spline); triangles: knots; grey: no difference from the median."
        )
        blocks.append(Picture(shapes(drawn, slug=f"{part.slug}-plot", title=title), caption))
    tests = [_named(shape.nonlinear, shape.variable) for shape in found]
    blocks.append(tests_table(part.slug, f"Tests of departure from a line, {part.cohort}", tests))
    return [*blocks, *made(*(shape.method for shape in found))]


def _named(test: HypothesisTest, name: str) -> HypothesisTest:
    return test.model_copy(update={"about": readable(test.about or name)})


def effects_sentence(pairs: Sequence[tuple[str, HypothesisTest]], does: str, nothing: str) -> str:
    """Of which terms something is shown; where of none, that it is not ruled out either."""
    names = list(dict.fromkeys(f"‘{readable(name)}’" for name, test in pairs if shown_by(test)))
    if names:
        return f"It is shown that the effect of {listed(names)} {does}."
    if all(decisive(test) is None for _, test in pairs):
        return f"Whether an effect {does} could not be tested."
    return f"{nothing}, which does not rule it out."


def time_effect_records(effects: Sequence[TimeEffect]) -> tuple[dict[str, Value], ...]:
    """Every point of the lines over time as a record."""
    return tuple(
        {
            "cohort": effect.cohort,
            "model": effect.model,
            "term": effect.term,
            "months": month,
            "log_hazard_ratio": value,
            "lower": low,
            "upper": high,
            "constant": effect.constant,
        }
        for effect in effects
        for month, value, low, high in zip(
            effect.months, effect.log_hazard_ratio, effect.lower, effect.upper, strict=True
        )
    )


def shape_records(found: Sequence[Shape]) -> tuple[dict[str, Value], ...]:
    """Every point of the shapes as a record."""
    return tuple(
        {
            "cohort": shape.cohort,
            "model": shape.model,
            "variable": shape.variable,
            "unit": shape.unit,
            "at": at,
            "log_hazard_ratio": value,
            "lower": low,
            "upper": high,
        }
        for shape in found
        for at, value, low, high in zip(
            shape.at, shape.log_hazard_ratio, shape.lower, shape.upper, strict=True
        )
    )
