"""Measures on pictures and representations: attributes, ranks, readouts, intervals. NumPy alone, nothing is trained."""
