"""The loop that all stages share, and what a stage talks to."""
