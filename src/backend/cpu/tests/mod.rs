//! Every operation against a plain f64 reference.
