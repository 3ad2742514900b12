"""The agent loop and its pieces: a run asks a model, runs the tools that it calls, and stores both."""
