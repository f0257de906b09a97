"""A generator as a folder of its own, and its images as files."""
