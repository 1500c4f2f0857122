"""Finding: one class per kind of thing that is looked for in whole pictures, behind one protocol."""
