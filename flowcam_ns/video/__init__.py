"""Frames out of a video or folder: decoding, thinning, per-frame status."""
