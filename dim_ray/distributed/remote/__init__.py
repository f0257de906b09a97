"""A command that runs on the head of a cluster elsewhere: both sides."""
