"""Affine shapes and orientations of regions, learned: AffNet and OriNet (Mishkin et al. 2018)."""
