"""What does the width of a net change? note-s4.5, chizat2019-fig2a, note-ref1, note-ref3, geiger2020."""
