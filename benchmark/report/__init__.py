"""`reliquant report`: one self-contained page from the records. Gather, advise, draw, write; no model is run."""
