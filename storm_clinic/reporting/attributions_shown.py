"""Imputed genes behind the risks: how much each weighs, whether folds agree, how it is imputed."""

from __future__ import annotations

from storm_clinic.reporting.blocks import Block, Words, absent, cautions, made
from storm_clinic.reporting.notation import ABSENT, count, listed, number
from storm_clinic.reporting.numbers import EXPLORATORY, flat
from storm_clinic.reporting.parts import CohortPart
from storm_clinic.reporting.phrases import input_in_words
from storm_clinic.reporting.tables import Cell, Row, Table
from storm_clinic.validation.attributed_genes import AttributedGene, GeneAttributions

_IMPUTED = (
    "expression is imputed from H&E, not measured: a gene stands for whatever of the image goes "
    "with it, and weighs no more than its held-out correlation allows"
)
_NAMED = 3  # genes in the sentence
_EFFECT = {"higher": "higher risk", "lower": "lower risk", "differs": "differs between folds"}


def attributions_shown(part: CohortPart) -> list[Block]:
    """The sentence first, then the genes; what was left out, and how it was made."""
    blocks: list[Block] = []
    for at, item in enumerate(part.analyses("attributions"), start=1):
        if not item.genes:
            blocks.append(absent(f"Imputed genes behind the risks of ‘{item.model}’", item.note))
            continue
        blocks.append(Words(attribution_sentence(item)))
        blocks.append(_table(item, f"{part.slug}-{at}"))
        left_out = ""
        if item.n_incomplete:
            left_out = (
                f"{count(item.n_incomplete)} patients are left out, as their shares do not sum to "
                "the change of the risk"
            )
        blocks += [*cautions(_IMPUTED, item.note, left_out), *made(item.method)]
    return blocks


def attribution_sentence(item: GeneAttributions) -> str:
    """Which genes weigh most, and how far folds agree on that."""
    n_always = sum(gene.in_top == 1 for gene in item.genes)
    said = [
        f"Of {count(item.n_genes)} imputed genes, "
        f"{listed([gene.gene for gene in item.genes[:_NAMED]])} weigh most in the risks of "
        f"‘{item.model}’ for {count(item.n_patients)} patients of {item.cohort}",
        f"{count(n_always)} {'gene is' if n_always == 1 else 'genes are'} among the top "
        f"{count(item.n_top)} in all {count(item.n_folds)} folds",
    ]
    if item.rank_correlation is not None:
        said.append(f"folds rank all genes with a correlation of {number(item.rank_correlation)}")
    inputs = [f"{input_in_words(one.name)} {one.share:.0%}" for one in item.inputs]
    said.append(f"of all that tiles add to risks, {listed(inputs)}")
    return "; ".join(said) + "."


def _table(item: GeneAttributions, slug: str) -> Table:
    header = (
        Cell("Gene", "imputed"),
        Cell("Weight", "of all genes, mean of folds", numeric=True),
        Cell("More of it goes with"),
        Cell(f"In the top {item.n_top}", "share of folds", numeric=True),
        Cell("Held-out r", "imputed against measured", numeric=True),
    )
    about = {"cohort": item.cohort, "model": item.model, "expression": "imputed"}
    return Table(
        slug,
        f"Imputed genes behind the risks of ‘{item.model}’ in {item.cohort}",
        header,
        tuple(Row(_cells(gene)) for gene in item.genes),
        tuple({**about, **flat(gene.model_dump())} for gene in item.genes),
        label=EXPLORATORY,
    )


def _cells(gene: AttributedGene) -> tuple[Cell, ...]:
    known = gene.heldout_r_lower is not None and gene.heldout_r_upper is not None
    interval = f"{number(gene.heldout_r_lower)} to {number(gene.heldout_r_upper)}"
    return (
        Cell(gene.gene, "imputed"),
        Cell(f"{gene.importance:.1%}", numeric=True),
        Cell(_EFFECT[gene.direction]),
        Cell(f"{gene.in_top:.0%}", numeric=True),
        Cell(
            ABSENT if gene.heldout_r is None else number(gene.heldout_r),
            interval if known else "",
            numeric=True,
        ),
    )
