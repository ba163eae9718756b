"""Which models of a study fuse inputs that others see alone."""

from __future__ import annotations

from collections.abc import Mapping

from storm_clinic.study import Study


def parts_of(study: Study) -> dict[str, tuple[str, ...]]:
    """For each model, the models of the study whose inputs are among its own and fewer.

    In the order of the study; models that fuse nothing are left out. A gain over each of them says
    what the other inputs add.
    """
    inputs = {spec.name: frozenset(spec.inputs) for spec in study.models}
    found = {
        whole: tuple(part for part, fewer in inputs.items() if fewer < seen)
        for whole, seen in inputs.items()
    }
    return {whole: parts for whole, parts in found.items() if parts}


def missing_parts(inputs: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """For each model that fuses inputs, those that no model sees alone; empty where all are."""
    alone = {seen[0] for seen in inputs.values() if len(seen) == 1}
    found = {
        model: tuple(name for name in seen if name not in alone)
        for model, seen in inputs.items()
        if len(seen) > 1
    }
    return {model: names for model, names in found.items() if names}
