"""Generators and their images as files for others."""
