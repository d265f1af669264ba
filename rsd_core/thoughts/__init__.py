"""Thoughts: the markers around them, the two parts of a response, and agreement between models on one text."""
