"""``python -m daemon``: the same as ``cxrfind``; how the supervisor starts its roles."""

from daemon.cli import main

main()
