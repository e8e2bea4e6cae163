"""Does kappa, known at w0, tell how lazily a net will train? note-s1.1, note-s1.1-regimes, note-s3.3, note-s3.4."""
