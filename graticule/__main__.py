"""``python -m graticule``."""

from graticule.cli import main

main()
