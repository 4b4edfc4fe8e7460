"""Attribution graphs, hierarchies and circuits as frozen data."""
