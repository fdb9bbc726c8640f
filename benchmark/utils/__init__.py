"""Small tools that know nothing of models, data or results."""
