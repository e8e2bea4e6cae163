"""Models of four families, tiny and with random weights: functions that return `(module, batch, output)`."""
