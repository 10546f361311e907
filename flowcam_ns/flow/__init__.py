"""Optical flow estimators behind one interface, confidence, the flow graph and its cache."""
