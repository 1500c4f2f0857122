"""Card: what a data set holds, in numbers and pictures."""
