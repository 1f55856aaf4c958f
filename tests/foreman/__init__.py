"""Real machines that a stand-in Foreman deploys; `make foreman` runs them, `make test` does not."""
