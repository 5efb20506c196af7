"""``python -m graticule.cli``."""

from graticule.cli import main

main()
