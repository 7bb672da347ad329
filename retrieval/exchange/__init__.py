"""What an index knows, in the formats of programs that reconstruct: COLMAP's database, hloc's HDF5."""
