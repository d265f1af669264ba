"""Chat templates of thinking models: a model's input against the template's own rendering."""
