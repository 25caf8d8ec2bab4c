"""The networks under test, the graphs made of them, and their precisions."""
