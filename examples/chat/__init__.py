"""A chat on GPU Mesh: a customer's question, answered by a model while the customer reads.

    ollama pull gemma3:4b                       any model that generates
    export PYTHONPATH=examples
    gpu-mesh up &
    python -m chat "How do I change my password?"

Kill the worker in the middle of the answer: another one answers anew, and the reader is told.
"""
