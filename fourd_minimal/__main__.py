"""`python -m fourd_minimal` is the command `fourd`; without arguments it completes the bundled example."""

from fourd_minimal.cli.main import main

main()
