"""The loop, what a run costs, its folder, and finished runs on other images."""
