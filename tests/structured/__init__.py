"""Structured output: JSON by a schema."""
