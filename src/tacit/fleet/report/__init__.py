"""What runs came to, drawn: a page for each, a page over several, and a line while one goes on."""

from tacit.fleet.report.compared import compare, table_text
from tacit.fleet.report.page import write

__all__ = ["compare", "table_text", "write"]
