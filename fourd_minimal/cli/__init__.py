"""The command `fourd`, what the package can do from a shell: `commands.py` is the table of what there is."""
