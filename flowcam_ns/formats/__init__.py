"""Writers and readers: transforms.json, COLMAP, TUM, PLY, trajectory plot."""
