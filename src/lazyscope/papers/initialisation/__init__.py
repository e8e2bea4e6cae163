"""What does the scale of the initial weights change? Figures over tau, and over tau and alpha.

note-fig3, note-fig4, note-fig5, note-ref6, explorer, chizat2019-fig1c, woodworth2020.
"""
