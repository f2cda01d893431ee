"""What the steps share and no step owns: face tables, storage, geometry, detectors, backbones, metrics."""
