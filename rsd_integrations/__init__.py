"""RSD in the outside world: one subpackage per model library or framework, each imported only when used."""
