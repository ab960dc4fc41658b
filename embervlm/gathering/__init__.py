"""What is fetched once from other projects' packages: panoramas that scenes stand on, the project's own album."""
