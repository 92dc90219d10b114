//! loglik
