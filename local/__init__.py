"""The whole system on one machine: emulated AWS, Redis, Lambda-like functions, event source mapping and HTTP."""
