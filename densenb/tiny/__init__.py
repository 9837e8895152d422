"""The miniature SD 3.5: its synthetic world, its training, its bundled weights."""
