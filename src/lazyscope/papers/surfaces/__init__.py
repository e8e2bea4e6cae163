"""What do loss surfaces around solutions show, and what not? note-fig2, note-fig6."""
