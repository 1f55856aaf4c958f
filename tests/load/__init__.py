"""A thousand machines installing at once against one server: `make load`, build/load.json."""
