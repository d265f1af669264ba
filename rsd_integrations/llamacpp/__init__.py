"""GGUF files in process, through the C functions of llama.cpp."""
