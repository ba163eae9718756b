"""Sites and groups on which R and this package compute the same numbers.

As a script, writes them for R: ``python tests/golden/shift_cases.py FOLDER``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

# Values and standard errors on the scale on which they are pooled. ``bcg`` are log risk ratios of
# thirteen vaccine trials (metafor's dat.bcg, rounded); the others are made: sites that spread,
# sites that agree (tau2 = 0), sites a little less alike than their errors, and two sites.
SITES: dict[str, dict[str, list[float]]] = {
    "bcg": {
        "y": [
            *(-0.8893113339, -1.5853886572, -1.3480731483, -1.4415511900, -0.2175473222),
            *(-0.7861155858, -1.6208982236, 0.0119523335, -0.4694176487, -1.3713448034),
            *(-0.3393588283, 0.4459134006, -0.0173139482),
        ],
        "se": [
            *(0.5706004, 0.4411138, 0.6444876, 0.1414488, 0.2263482),
            *(0.0831014, 0.4722264, 0.0629326, 0.2375689, 0.2702377),
            *(0.1115290, 0.7297328, 0.2671973),
        ],
    },
    "spread": {
        "y": [0.85, 1.32, 0.41, 1.02, 0.66, 1.75],
        "se": [0.21, 0.30, 0.18, 0.12, 0.45, 0.38],
    },
    "agree": {"y": [0.52, 0.49, 0.55, 0.50], "se": [0.20, 0.15, 0.30, 0.25]},
    "three": {"y": [0.20, 0.75, 0.55], "se": [0.22, 0.18, 0.30]},
    "two": {"y": [0.10, 0.90], "se": [0.20, 0.25]},
}

# Counts of levels in two groups, and moments (mean, sd) of two groups.
LEVELS: dict[str, list[list[int]]] = {
    "two_levels": [[40, 60], [75, 25]],
    "four_levels": [[120, 40, 90, 50], [30, 35, 60, 75]],
    "level_of_one_group": [[50, 30, 0, 20], [40, 10, 25, 25]],
}
MOMENTS: dict[str, list[float]] = {"age": [60.5, 11.2, 66.1, 9.4], "same": [1.0, 2.0, 1.0, 3.0]}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    cases = {"sites": SITES, "levels": LEVELS, "moments": MOMENTS}
    (folder / "shift_cases.json").write_text(json.dumps(cases))
