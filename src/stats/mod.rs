//! Statistics in plain f64 arithmetic, each of them once: Wilson's interval of a proportion, the exact McNemar test and
//! Newcombe's interval for paired results, the chi-square tail, and the exact test of equal shares.
//!
//! Nothing here knows what is counted.

mod gamma;
mod paired;
mod proportion;
mod shares;

pub use gamma::{chi_square_tail, ln_gamma};
pub use paired::{Paired, mcnemar};
pub use proportion::{Proportion, Z95, wilson};
pub use shares::{EqualShares, equal_shares};

/// A probability as people read it: "0.031", "< 0.0001".
pub fn p_text(p: f64) -> String {
    if p < 1e-4 {
        "< 0.0001".into()
    } else if p < 0.01 {
        format!("{p:.4}")
    } else {
        format!("{p:.3}")
    }
}

#[cfg(test)]
#[track_caller]
fn near(x: f64, y: f64, tolerance: f64) {
    assert!((x - y).abs() <= tolerance, "{x} is not {y} ± {tolerance}");
}
