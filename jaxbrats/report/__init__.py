"""What people look at: figures, overlays, and the report's pages."""
