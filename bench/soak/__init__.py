"""`python -m bench soak`: hours of weather in minutes, and whether any request was lost, doubled or damaged by it."""
