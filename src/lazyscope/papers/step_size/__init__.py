"""What do the step size and the optimiser change? note-fig7, note-s5.1, chizat2019-fig2b, lewkowycz2020."""
