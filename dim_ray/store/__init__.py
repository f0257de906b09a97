"""Rows and artefacts on a file system, with pyarrow only."""
