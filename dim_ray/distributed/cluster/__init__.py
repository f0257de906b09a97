"""The Ray cluster that a command uses: joined or its own, and how many trials it holds."""
