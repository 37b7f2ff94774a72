"""The programs that make this folder's pictures and tables: `python -m figures.NAME`, from the repository's root."""
