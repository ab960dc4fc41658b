"""The robot-selection endpoint: what `serve.app:app` deploys on Ray Serve, and what runs without Ray in a test."""
