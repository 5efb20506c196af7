"""How fast it is, as ratios measured in one run: ``python -m bench``."""

import os

# As graticule.cli does: threads that spin while they wait would take the cores from the worker that decodes.
# OpenMP reads it when torch is first imported, so it stands here, before any benchmark.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
