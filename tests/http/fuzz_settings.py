"""The seed and the number of examples for the fuzz tests.

By default both are fixed, so that a run can be repeated. ``FUZZ_SEED`` sets another seed, and ``FUZZ_TIMES`` multiplies
the number of examples. ``make fuzz`` sets both.
"""

from __future__ import annotations

import os
from typing import Final

SEED: Final = int(os.environ.get("FUZZ_SEED", "1"))
TIMES: Final = int(os.environ.get("FUZZ_TIMES", "1"))
