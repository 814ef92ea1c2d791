"""Reports of rows: tables, charts, pages and sentences."""
