"""Encoder, fields, surfaces and scene flow, camera optimizer, the nerfstudio Model."""
