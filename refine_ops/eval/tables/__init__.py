"""Tables: results in the paper's form."""
