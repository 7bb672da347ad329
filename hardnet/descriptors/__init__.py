"""Descriptors: one interface, and what implements it: networks in torch or ONNX Runtime, and RootSIFT."""
