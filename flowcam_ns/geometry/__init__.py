"""Pinhole camera, SE(3), weighted Procrustes, trajectories and their metrics."""
