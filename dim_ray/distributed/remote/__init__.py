"""Run a command as a Ray job on the head of a cluster elsewhere."""
