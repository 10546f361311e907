"""Optical flow between frames: estimators behind one interface, confidence, and a store that samples and caches it."""
