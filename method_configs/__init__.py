"""One file per registered nerfstudio method; data only."""
