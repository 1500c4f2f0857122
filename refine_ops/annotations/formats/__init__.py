"""One module per format: its files as `DrawnImage`s, and for some the way back."""
