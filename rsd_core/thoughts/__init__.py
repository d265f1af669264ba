"""Thoughts: the markers around them, the two parts of a response, and how models agree on one text."""
