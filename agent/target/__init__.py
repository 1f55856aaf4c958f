"""What an installed system needs: its files as pure functions, and one small adapter per family."""
