"""The Ray cluster of a command, joined or started by it, and how many trials it holds."""
