"""Renamed genes that older annotations still carry: former HGNC symbol, then today's.

Only renames of one gene to one symbol, whose former name no other gene bears today. It is a start
and no substitute for HGNC's own table, which `storm_clinic.storm.genes.read_aliases` reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# Families renamed as a whole. Aminoacyl-tRNA synthetases got a "1" behind their names.
_SYNTHETASES = [f"{letter}ARS" for letter in "ACDGHIKLMNQRSTVWY"] + ["EPRS"]
# Spreadsheets took these for dates.
_SEPTINS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14)
_MARCHES = range(1, 12)
_NECTINS = range(1, 5)

KNOWN_RENAMES: Mapping[str, str] = MappingProxyType(
    {
        **{name: f"{name}1" for name in _SYNTHETASES},
        **{f"SEPT{number}": f"SEPTIN{number}" for number in _SEPTINS},
        **{f"MARCH{number}": f"MARCHF{number}" for number in _MARCHES},
        **{f"PVRL{number}": f"NECTIN{number}" for number in _NECTINS},
        "ATP5A1": "ATP5F1A",
        "ATP5B": "ATP5F1B",
        "C10orf54": "VSIR",
        "CD97": "ADGRE5",
        "CTGF": "CCN2",
        "CYR61": "CCN1",
        "EMR1": "ADGRE1",
        "FAM129A": "NIBAN1",
        "FAM129B": "NIBAN2",
        "FAM46C": "TENT5C",
        "FYB": "FYB1",
        "GPR56": "ADGRG1",
        "H2AFX": "H2AX",
        "H2AFZ": "H2AZ1",
        "KIAA1524": "CIP2A",
        "MB21D1": "CGAS",
        "MLL": "KMT2A",
        "MLL3": "KMT2C",
        "NOV": "CCN3",
        "SEPP1": "SELENOP",
        "TMEM173": "STING1",
        "WHSC1": "NSD2",
        "WISP1": "CCN4",
        "WISP2": "CCN5",
        "WISP3": "CCN6",
    }
)
