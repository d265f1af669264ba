"""Chat templates of thinking models: what a model is fed, beside the template's own rendering."""
