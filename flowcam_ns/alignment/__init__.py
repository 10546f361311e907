"""Flow bundle adjustment: flow graph to poses, inverse depths and lens."""
