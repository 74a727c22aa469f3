"""`python -m bench slow`: whether many clients that are slow on purpose slow down one that is not."""
