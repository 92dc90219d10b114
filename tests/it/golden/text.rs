//! Tokens and chat texts as transformers makes them.
