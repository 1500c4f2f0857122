"""Page: the report as HTML, Markdown and a contact sheet."""
