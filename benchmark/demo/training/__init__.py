"""How the demo checkpoint was trained; not part of the wheel."""
