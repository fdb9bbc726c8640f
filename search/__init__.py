"""Search: an Optuna study whose objective is one evaluation."""
