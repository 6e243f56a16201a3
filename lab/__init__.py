"""Tiny from-scratch models in Hugging Face format: the embedded default student and teacher, their corpora, weights and loader."""
