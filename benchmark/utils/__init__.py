"""Small tools, independent of models, data and results."""
