"""`python -m qproxy`."""

from qproxy.cli import main

main()
