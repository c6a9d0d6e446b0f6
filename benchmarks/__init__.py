"""What is measured: this project and what a user would pick instead."""
