"""Representations on disk: `encode` writes a file of them, and wherever h is needed such a file can stand in.

    writing.py          a set of pictures to a file, to be taken up where it was stopped (journal.py)
    file.py             the format, whether a file is the right one, h by content id
    checksums.py        whether rows are still what was written
    reading.py          pictures in batches, decoded by threads
    encoding.py         a batch of pictures to h
    rows.py             arrays on disk, written and read row by row
"""

from rcdm_core.representations.file import About, Representations
from rcdm_core.representations.writing import encode

__all__ = ["About", "Representations", "encode"]
