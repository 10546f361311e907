"""Dataparser, dataset and datamanager: frames and flow as nerfstudio sees them."""
