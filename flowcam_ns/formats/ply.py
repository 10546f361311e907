"""Point clouds as PLY, binary little endian: what nerfstudio, open3d, MeshLab and Blender read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from flowcam_ns.formats.atomic import atomic_file


def write_ply(
    path: Path,
    xyz: Float[np.ndarray, "points 3"],
    rgb: UInt8[np.ndarray, "points 3"],
    normals: Float[np.ndarray, "points 3"] | None = None,
) -> None:
    """Write points (world units) with their colours and, if given, unit normals."""
    fields = [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]
    if normals is not None:
        fields += [("nx", "<f4"), ("ny", "<f4"), ("nz", "<f4")]
    fields += [("red", "u1"), ("green", "u1"), ("blue", "u1")]
    columns = np.split(xyz, 3, axis=1) + ([] if normals is None else np.split(normals, 3, axis=1))
    vertices = np.empty(len(xyz), dtype=fields)
    for (name, _), column in zip(fields, [*columns, *np.split(rgb, 3, axis=1)], strict=True):
        vertices[name] = column[:, 0]
    names = {"<f4": "float", "u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(xyz)}"]
    header += [f"property {names[kind]} {name}" for name, kind in fields]
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        file.write("\n".join([*header, "end_header\n"]).encode("ascii"))
        file.write(vertices.tobytes())
