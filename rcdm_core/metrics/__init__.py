"""Measures on pictures and representations: attributes, ranks, readouts, judges, intervals. No network is trained."""
