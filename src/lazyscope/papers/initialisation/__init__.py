"""What does the scale of the initial weights change? chizat2019-fig1c, note-fig3, -fig4, explorer, woodworth2020."""
