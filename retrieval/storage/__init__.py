"""Storage: files and folders written whole or not at all, arrays with a manifest, one writer at a time."""
