"""``python -m samband`` is the same as the ``samband`` command."""

from samband.cli import main

main()
