"""Common parts of in-process models of all libraries: calls as rows of batches, caches by path, ends of steps."""
