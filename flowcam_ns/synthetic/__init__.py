"""The procedural scene with exact poses, depth and flow."""
