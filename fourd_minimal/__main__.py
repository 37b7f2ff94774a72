"""`python -m fourd_minimal` runs the main job on a bundled example; with arguments it is the command `fourd`."""

import sys

from fourd_minimal.lab.cli import main

main(sys.argv[1:] or ["generate"])
