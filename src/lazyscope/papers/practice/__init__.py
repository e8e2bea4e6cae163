"""Are networks in practice lazy? note-s5.3."""
