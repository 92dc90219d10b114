//! Answering multiple-choice questions and judging the answers: scoring by log-likelihood or by generation, the answer
//! parser, result files, statistics, and the paired comparison of two results.
//!
//! A *choice* is an index 0..4 here; its letters are [`LETTERS`]. Files and screens show letters.

pub mod accuracy;
pub mod answer;
pub mod ask;
pub mod compare;
pub mod generate;
pub mod loglik;
pub mod result;
pub mod score;
pub mod stats;

/// Letters of the four choices, in order.
pub const LETTERS: [&str; 4] = ["a", "b", "c", "d"];

/// What stands in a result when no answer could be read from a response.
pub const UNKNOWN: &str = "unknown";

/// "a".."d", or [`UNKNOWN`].
pub fn label(choice: Option<usize>) -> &'static str {
    choice.and_then(|c| LETTERS.get(c)).copied().unwrap_or(UNKNOWN)
}
