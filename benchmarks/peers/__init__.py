"""Other INT8 quantizers, and what measures them beside deploykit.

Each quantizer is a script of its own, so that its time and memory are its own, and so that it can
run under another interpreter: requirements.txt says what ModelOpt needs.
"""
