"""Which weights move, how far and how fast? note-fig1, note-s5.2, note-ref8, chizat2019-fig1a, chizat2019-fig1b."""
