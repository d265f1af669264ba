"""RSD's integrations: one subpackage per model library or framework, each imported only when used."""
