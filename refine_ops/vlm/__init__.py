"""Vision-language models behind one seam: questions about pictures, answered as JSON."""
