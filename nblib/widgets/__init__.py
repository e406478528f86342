"""Finished runs to look into in JupyterLab, and trainings to watch."""
