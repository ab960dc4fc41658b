"""What is fetched once from other projects' packages: the archives themselves, and the project's own album."""
