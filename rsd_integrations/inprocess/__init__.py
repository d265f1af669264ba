"""What models in process share, whatever library runs them: calls as rows of batches, caches by path, ends of steps."""
