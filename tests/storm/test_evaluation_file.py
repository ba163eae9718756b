"""Rows of an evaluation's YAML: an ablation changes what it names, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from storm_clinic.errors import TrainingError
from storm_clinic.storm.evaluation_file import EvaluationFile, read_evaluation

YAML = """\
format: 1
name: rows
sections:
  - {layout: her2st, root: data}
encoder: {name: tiny, tile_um: 60.0}
leave_out: section
seeds: [0, 1]
top_genes: 2
network:
  name: STORM
  pretrain_steps: 9
  masking: {whole_image: 0.9, visible: 3}
  losses: {image: 0.5}
ablations:
  - {name: seven visible, masking: {visible: 7}}
  - {name: no images, losses: {image: 0.0}, epochs: 3}
card: {data: none, licence: CC0-1.0, limits: none}
"""


def read(tmp_path: Path, text: str = YAML) -> EvaluationFile:
    path = tmp_path / "rows.yaml"
    path.write_text(text, encoding="utf-8")
    return read_evaluation(path)


def test_an_ablation_has_all_from_the_network_but_what_it_names(tmp_path):
    network, seven, none = read(tmp_path).recipes
    assert (network.masking.visible, network.masking.whole_image) == (3, 0.9)
    assert (seven.masking.visible, seven.masking.whole_image) == (7, 0.9)
    assert seven.losses == network.losses
    assert (none.losses.image, none.losses.expression) == (0.0, 1.0)
    assert none.masking == network.masking
    assert (none.finetune.epochs, none.pretrain_steps) == (3, 9)


def test_a_row_that_contradicts_itself_is_named_with_its_file(tmp_path):
    text = YAML.replace("{visible: 7}", "{both: 0.9}")
    with pytest.raises(TrainingError, match=r"rows\.yaml, row 'seven visible', .*add up to 1"):
        read(tmp_path, text)
