"""The panel that shows poses and status in the nerfstudio viewer."""
