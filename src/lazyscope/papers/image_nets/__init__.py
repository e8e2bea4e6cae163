"""Are image nets lazy, and does it serve them? chizat2019-fig3a, -fig3b, -fig3c, -table1."""
