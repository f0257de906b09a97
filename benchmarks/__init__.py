"""Benchmarks: what a step, an image and a row cost, beside a plain transcription and the arithmetic that it takes.

    python -m benchmarks                          all of them, as a table
    python -m benchmarks adversarial student      some
    python -m benchmarks --list                   their names

They are run in a checkout, and are no part of the package.
"""
